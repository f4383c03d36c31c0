from pathlib import Path

from setuptools import find_packages, setup

URDFS = sorted(Path('wam_policy/robots').glob('*/robot.urdf'))

setup(
    name='wam_policy',
    version='0.1.0',
    packages=find_packages(include=['wam_policy', 'wam_policy.*']),
    package_data={
        'wam_policy': [
            'robots/*/*.yaml',
            'robots/*/*.xml',
            'robots/*/*.urdf',
            'robots/*/README.md',
            'pretrained/*/*',
            'pretrained/*/experiment_cfg/*',
            'servers/profiles/*.yaml',
        ]
    },
    data_files=[
        ('share/ament_index/resource_index/packages', ['resource/wam_policy']),
        ('share/wam_policy', ['package.xml']),
        # where other packages look for it, robot_state_publisher first
        *((f'share/wam_policy/robots/{path.parent.name}', [str(path)]) for path in URDFS),
    ],
    install_requires=['setuptools'],
    zip_safe=False,  # robots are folders that are read from disk
    maintainer='WAM on ROS 2 maintainers',
    maintainer_email='maintainers@wam-ros2.invalid',
    description='World Action Model policies for robot arms: core, model, workers and nodes.',
    license='Apache-2.0',
    entry_points={
        'console_scripts': [
            'policy_node = wam_policy.nodes.policy.policy_node:main',
            'motion_node = wam_policy.nodes.motion.motion_node:main',
            'stream_node = wam_policy.nodes.stream.detached_process:main',
            'description_node = wam_policy.nodes.description.description_node:main',
            'recorder_node = wam_policy.nodes.recorder.recorder_node:main',
        ],
    },
)
