"""Physics: MuJoCo models, controllers and cameras."""
