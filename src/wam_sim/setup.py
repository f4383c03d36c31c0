"""Package the simulator; robot folders are installed as package data."""

from setuptools import find_packages, setup

setup(
    name='wam_sim',
    version='0.1.0',
    packages=find_packages(),
    package_data={'wam_sim': ['robots/*/*']},
    data_files=[
        ('share/ament_index/resource_index/packages', ['resource/wam_sim']),
        ('share/wam_sim', ['package.xml']),
    ],
    install_requires=['setuptools', 'mujoco', 'numpy', 'pyyaml'],
    zip_safe=False,
    maintainer='WAM maintainers',
    maintainer_email='maintainers@wam.invalid',
    description='Simulated robots, cameras and tasks in MuJoCo.',
    license='Apache-2.0',
    entry_points={'console_scripts': ['sim_node = wam_sim.sim_node:main']},
)
