"""Package the operator's page; its HTML, CSS and scripts are installed as package data."""

from setuptools import find_packages, setup

setup(
    name='wam_console',
    version='0.1.0',
    packages=find_packages(),
    package_data={'wam_console': ['static/*']},
    data_files=[
        ('share/ament_index/resource_index/packages', ['resource/wam_console']),
        ('share/wam_console', ['package.xml']),
    ],
    install_requires=['setuptools'],
    zip_safe=False,
    maintainer='WAM maintainers',
    maintainer_email='maintainers@wam.invalid',
    description="The operator's page: see and steer a stack in the browser.",
    license='Apache-2.0',
    entry_points={'console_scripts': ['console_node = wam_console.console_node:main']},
)
