"""Raw texts to batches: sources → dataset → tokens → pipeline. Nothing in here touches a device."""
