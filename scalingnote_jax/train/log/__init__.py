"""What a training tells of itself: records of its figures, and alarms where they go wrong."""
