// Where the dispatcher finds one interface's symbol in each type support library.
#ifndef ROSIDL_TYPESUPPORT_C__TYPE_SUPPORT_MAP_H_
#define ROSIDL_TYPESUPPORT_C__TYPE_SUPPORT_MAP_H_

#include <stddef.h>

typedef struct type_support_map_s
{
  size_t size;
  const char * package_name;
  const char * const * typesupport_identifier;  // [size]
  const char * const * symbol_name;  // [size]
  void ** data;  // [size], the loaded libraries
} type_support_map_t;

#endif  // ROSIDL_TYPESUPPORT_C__TYPE_SUPPORT_MAP_H_
