"""The simulated world: MuJoCo models, controllers, cameras."""
