// The names of the symbols that generated code exports and looks up.
#ifndef ROSIDL_TYPESUPPORT_INTERFACE__MACROS_H_
#define ROSIDL_TYPESUPPORT_INTERFACE__MACROS_H_

#define ROSIDL_TYPESUPPORT_INTERFACE__LIBRARY_NAME(support, package) package ## __ ## support

#define ROSIDL_TYPESUPPORT_INTERFACE__SYMBOL_NAME(support, function, package, kind, name) \
  support ## __ ## function ## __ ## package ## __ ## kind ## __ ## name

#define ROSIDL_TYPESUPPORT_INTERFACE__MESSAGE_SYMBOL_NAME(support, package, kind, name) \
  ROSIDL_TYPESUPPORT_INTERFACE__SYMBOL_NAME( \
    support, get_message_type_support_handle, package, kind, name)

#define ROSIDL_TYPESUPPORT_INTERFACE__SERVICE_SYMBOL_NAME(support, package, kind, name) \
  ROSIDL_TYPESUPPORT_INTERFACE__SYMBOL_NAME( \
    support, get_service_type_support_handle, package, kind, name)

#define ROSIDL_TYPESUPPORT_INTERFACE__ACTION_SYMBOL_NAME(support, package, kind, name) \
  ROSIDL_TYPESUPPORT_INTERFACE__SYMBOL_NAME( \
    support, get_action_type_support_handle, package, kind, name)

#define ROSIDL_TYPESUPPORT_INTERFACE__SERVICE_CREATE_EVENT_MESSAGE_SYMBOL_NAME( \
    support, package, kind, name) \
  ROSIDL_TYPESUPPORT_INTERFACE__SYMBOL_NAME( \
    support, create_service_event_message, package, kind, name)

#define ROSIDL_TYPESUPPORT_INTERFACE__SERVICE_DESTROY_EVENT_MESSAGE_SYMBOL_NAME( \
    support, package, kind, name) \
  ROSIDL_TYPESUPPORT_INTERFACE__SYMBOL_NAME( \
    support, destroy_service_event_message, package, kind, name)

#endif  // ROSIDL_TYPESUPPORT_INTERFACE__MACROS_H_
