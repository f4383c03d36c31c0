# Puts this ROS 2 Jazzy prefix into the environment of the shell that sources it.
_wam_prefix=$(builtin cd "$(dirname "${BASH_SOURCE[0]}")" > /dev/null && pwd)

# first in the list, once: sourcing twice must not grow the variables
_wam_prepend() {
  case ":${!1}:" in
    *":$2:"*) ;;
    *) export "$1=$2${!1:+:${!1}}" ;;
  esac
}
_wam_prepend AMENT_PREFIX_PATH "$_wam_prefix"
_wam_prepend CMAKE_PREFIX_PATH "$_wam_prefix"
_wam_prepend LD_LIBRARY_PATH "$_wam_prefix/lib"
_wam_prepend PYTHONPATH "$_wam_prefix/lib/python3.12/site-packages"
_wam_prepend PATH "$_wam_prefix/bin"
export ROS_DISTRO=jazzy ROS_VERSION=2 ROS_PYTHON_VERSION=3
# Fast DDS works as well: RMW_IMPLEMENTATION=rmw_fastrtps_cpp
export RMW_IMPLEMENTATION=${RMW_IMPLEMENTATION:-rmw_cyclonedds_cpp}
unset -f _wam_prepend
unset _wam_prefix
