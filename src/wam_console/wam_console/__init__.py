"""The operator's page: see and steer a stack in the browser."""
