// Jazzy's hash of an interface definition, which every type support hands out.
#ifndef ROSIDL_RUNTIME_C__TYPE_HASH_H_
#define ROSIDL_RUNTIME_C__TYPE_HASH_H_

#include <stdint.h>

#define ROSIDL_TYPE_HASH_VERSION_UNSET 0
// SHA-256 gives 32 bytes; rcutils 6.0 has no header that would say so.
#define ROSIDL_TYPE_HASH_SIZE 32

typedef struct rosidl_type_hash_s
{
  uint8_t version;
  uint8_t value[ROSIDL_TYPE_HASH_SIZE];
} rosidl_type_hash_t;

#endif  // ROSIDL_RUNTIME_C__TYPE_HASH_H_
