"""The networks: what a model repository on the Hub contains besides weights; never imports `dedn_hf`."""
