"""The ten tasks of MT10 with our sentences, and the numbers that all programs here share.

Apart from mt10_scene.py, because this needs no `metaworld`.
"""

HORIZON = 24  # rows of a chunk, and of a block of the model's memory
IMAGE_PERIOD_ROWS = 6  # four images per block, as wam-mini takes them
MAX_STEPS = 500  # of an episode, as Meta-World counts success
SCENES_PER_SEED = 50  # that MT10(seed) draws for each task
INSTRUCTIONS = {
    'reach-v3': 'move the hand to the red ball',
    'push-v3': 'push the puck to the green ball',
    'pick-place-v3': 'pick up the puck and hold it at the blue ball',
    'door-open-v3': 'open the door',
    'drawer-open-v3': 'open the drawer',
    'drawer-close-v3': 'close the drawer',
    'button-press-topdown-v3': 'press the button',
    'peg-insert-side-v3': 'insert the peg into the hole',
    'window-open-v3': 'open the window',
    'window-close-v3': 'close the window',
}
