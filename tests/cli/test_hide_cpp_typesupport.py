"""Trimming hides what cannot be compiled, and nothing else."""

from cli import hide_cpp_typesupport

ONE_LINE = 'set(_exported_dependencies "std_msgs;fastcdr;rmw;rcpputils;rosidl_runtime_c")\n'
TWO_LINES = (
    '# generated\nset(_exported_typesupport_targets\n'
    '  "__rosidl_generator_c:a;__rosidl_typesupport_cpp:b;__rosidl_generator_py:c")\n'
)


def test_unusable_items_leave_the_list():
    assert hide_cpp_typesupport.remove_unusable_exports(ONE_LINE) == (
        'set(_exported_dependencies "std_msgs;rosidl_runtime_c")\n'
    )


def test_a_list_on_its_own_line_is_found():
    assert hide_cpp_typesupport.remove_unusable_exports(TWO_LINES) == (
        '# generated\nset(_exported_typesupport_targets\n'
        '  "__rosidl_generator_c:a;__rosidl_generator_py:c")\n'
    )


def test_other_text_stays():
    text = 'find_package(fastcdr)\nset(_other "rmw;cpp")\nset(_exported_libraries "")\n'
    assert hide_cpp_typesupport.remove_unusable_exports(text) == text


def test_only_rmw_itself_goes():
    assert not hide_cpp_typesupport.is_usable('rmw')
    assert hide_cpp_typesupport.is_usable('rmw_cyclonedds')
    assert hide_cpp_typesupport.is_usable('rosidl_typesupport_introspection_c')
    assert not hide_cpp_typesupport.is_usable('a::a__rosidl_typesupport_introspection_cpp')


def write_small_prefix(root):
    """Lay out the few files of a prefix that trimming touches."""
    index = root / 'share/ament_index/resource_index'
    for name in (
        'rosidl_typesupport_cpp/x',
        'rosidl_typesupport_c/rosidl_typesupport_fastrtps_c',
        'rosidl_typesupport_c/rosidl_typesupport_introspection_c',
        'rosidl_generator_packages/rosidl_generator_cpp',
        'rosidl_generator_packages/rosidl_generator_py',
    ):
        (index / name).parent.mkdir(parents=True, exist_ok=True)
        (index / name).write_text('')
    for name in ('rosidl_generator_cpp/cmake/a.cmake', 'rosidl_generator_py/cmake/b.cmake'):
        (root / 'share' / name).parent.mkdir(parents=True)
        (root / 'share' / name).write_text('')
    extras = root / 'share/std_msgs/cmake/ament_cmake_export_dependencies-extras.cmake'
    extras.parent.mkdir(parents=True)
    extras.write_text(ONE_LINE)
    return root


def test_a_prefix_is_trimmed_once_and_for_all(tmp_path):
    root = write_small_prefix(tmp_path)
    for _ in range(2):
        hide_cpp_typesupport.hide_cpp_typesupport(root)
        left = {str(p.relative_to(root / 'share')) for p in root.rglob('*') if p.is_file()}
        assert left == {
            'ament_index/resource_index/rosidl_typesupport_c/rosidl_typesupport_introspection_c',
            'ament_index/resource_index/rosidl_generator_packages/rosidl_generator_py',
            'rosidl_generator_cpp/cmake.unused/a.cmake',
            'rosidl_generator_py/cmake/b.cmake',
            'std_msgs/cmake/ament_cmake_export_dependencies-extras.cmake',
        }
    extras = root / 'share/std_msgs/cmake/ament_cmake_export_dependencies-extras.cmake'
    assert 'rmw' not in extras.read_text()
