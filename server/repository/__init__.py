"""The model repository: what lies on disk, and the models' lives from loading to unloading."""
