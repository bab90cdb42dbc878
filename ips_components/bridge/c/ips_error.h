/* Errors of a bridge: the last text, and the handler. At the bottom: every part may fail. */
#ifndef IPS_ERROR_H
#define IPS_ERROR_H

#include "ips_bridge.h"

/* The first member of struct ips_bridge. */
typedef struct errors {
    char text[1024];
    ips_bridge_error_handler handler;
    void *handler_data;
} errors;

/* Set the text, call the handler if the code is an error, and return the code. */
int ipsb_fail(ips_bridge *b, int code, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 3, 4)))
#endif
    ;

#endif
