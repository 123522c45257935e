"""The template of model cards, and the cards of the models in README.md; installed as `dedn_hf.model_cards`."""
