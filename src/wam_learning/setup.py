from setuptools import find_packages, setup

setup(
    name='wam_learning',
    version='0.1.0',
    packages=find_packages(),
    package_data={'wam_learning': ['training/fsdp.yaml']},
    data_files=[
        ('share/ament_index/resource_index/packages', ['resource/wam_learning']),
        ('share/wam_learning', ['package.xml']),
    ],
    install_requires=['setuptools'],
    maintainer='WAM on ROS 2 maintainers',
    maintainer_email='maintainers@wam-ros2.invalid',
    description='Bags to data sets to trained and evaluated World Action Models.',
    license='Apache-2.0',
)
