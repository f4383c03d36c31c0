from setuptools import find_packages, setup

setup(
    name='wam_policy',
    version='0.1.0',
    packages=find_packages(include=['wam_policy', 'wam_policy.*']),
    package_data={
        'wam_policy': [
            'robots/*/*.yaml',
            'robots/*/*.xml',
            'robots/*/README.md',
            'pretrained/*/*',
            'pretrained/*/experiment_cfg/*',
            'servers/profiles/*.yaml',
        ]
    },
    data_files=[
        ('share/ament_index/resource_index/packages', ['resource/wam_policy']),
        ('share/wam_policy', ['package.xml']),
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
            'recorder_node = wam_policy.nodes.recorder.recorder_node:main',
        ],
    },
)
