// Linkage of what librosidl_typesupport_c exports.
#ifndef ROSIDL_TYPESUPPORT_C__VISIBILITY_CONTROL_H_
#define ROSIDL_TYPESUPPORT_C__VISIBILITY_CONTROL_H_

#define ROSIDL_TYPESUPPORT_C_EXPORT __attribute__((visibility("default")))
#define ROSIDL_TYPESUPPORT_C_IMPORT
#define ROSIDL_TYPESUPPORT_C_PUBLIC __attribute__((visibility("default")))
#define ROSIDL_TYPESUPPORT_C_LOCAL __attribute__((visibility("hidden")))

#endif  // ROSIDL_TYPESUPPORT_C__VISIBILITY_CONTROL_H_
