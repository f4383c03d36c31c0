// Jazzy's message type support: the older three fields, then three getters.
#ifndef ROSIDL_RUNTIME_C__MESSAGE_TYPE_SUPPORT_STRUCT_H_
#define ROSIDL_RUNTIME_C__MESSAGE_TYPE_SUPPORT_STRUCT_H_

#include "rosidl_runtime_c/type_hash.h"
#include "rosidl_runtime_c/visibility_control.h"
#include "rosidl_typesupport_interface/macros.h"

#ifdef __cplusplus
extern "C"
{
#endif

typedef struct rosidl_message_type_support_t rosidl_message_type_support_t;

// Named here, complete in rosidl_runtime_c/type_description/: a handle only passes pointers on.
struct rosidl_runtime_c__type_description__TypeDescription;
struct rosidl_runtime_c__type_description__TypeSource__Sequence;

typedef const rosidl_message_type_support_t * (* rosidl_message_typesupport_handle_function)(
  const rosidl_message_type_support_t *, const char *);

typedef const rosidl_type_hash_t * (* rosidl_message_get_type_hash_function)(
  const rosidl_message_type_support_t *);

typedef const struct rosidl_runtime_c__type_description__TypeDescription *
(* rosidl_message_get_type_description_function)(const rosidl_message_type_support_t *);

typedef const struct rosidl_runtime_c__type_description__TypeSource__Sequence *
(* rosidl_message_get_type_description_sources_function)(const rosidl_message_type_support_t *);

struct rosidl_message_type_support_t
{
  const char * typesupport_identifier;
  const void * data;
  rosidl_message_typesupport_handle_function func;
  rosidl_message_get_type_hash_function get_type_hash_func;
  rosidl_message_get_type_description_function get_type_description_func;
  rosidl_message_get_type_description_sources_function get_type_description_sources_func;
};

ROSIDL_GENERATOR_C_PUBLIC
const rosidl_message_type_support_t * get_message_typesupport_handle(
  const rosidl_message_type_support_t * handle, const char * identifier);

ROSIDL_GENERATOR_C_PUBLIC
const rosidl_message_type_support_t * get_message_typesupport_handle_function(
  const rosidl_message_type_support_t * handle, const char * identifier);

#define ROSIDL_GET_MSG_TYPE_SUPPORT(package, subfolder, name) \
  ROSIDL_TYPESUPPORT_INTERFACE__MESSAGE_SYMBOL_NAME( \
    rosidl_typesupport_c, package, subfolder, name)()

#ifdef __cplusplus
}
#endif

#endif  // ROSIDL_RUNTIME_C__MESSAGE_TYPE_SUPPORT_STRUCT_H_
