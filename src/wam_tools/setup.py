from setuptools import find_packages, setup

setup(
    name='wam_tools',
    version='0.1.0',
    packages=find_packages(),
    package_data={
        'wam_tools': [
            'episode_view/*.html',
            'fault_injection/faults/*.yaml',
            'can_emulation/driver/*.py',
            'can_emulation/driver/i2rt/*.py',
            'can_emulation/driver/i2rt/*/*.py',
        ]
    },
    data_files=[
        ('share/ament_index/resource_index/packages', ['resource/wam_tools']),
        ('share/wam_tools', ['package.xml']),
    ],
    install_requires=['setuptools'],
    zip_safe=False,  # the template of the episode's page is read from disk
    maintainer='WAM on ROS 2 maintainers',
    maintainer_email='maintainers@wam-ros2.invalid',
    description='Developer programs: demo, soak test, fault injection, evaluation through ROS.',
    license='Apache-2.0',
)
