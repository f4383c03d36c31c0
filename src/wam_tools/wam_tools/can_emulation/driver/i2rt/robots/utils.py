"""The types that an arm is opened with."""

import enum


class ArmType(enum.Enum):
    YAM = 'yam'


class GripperType(enum.Enum):
    LINEAR_4310 = 'linear_4310'
