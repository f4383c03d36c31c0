"""A tiny data set that a model can learn: which half of the picture lights up tells where to go."""

from pathlib import Path

import numpy as np
from wam_policy.core import embodiment
from wam_policy.core.types import Frame, JointState, Observation
from wam_policy.learn.clips import PIXEL, PLACE, SUPERVISED
