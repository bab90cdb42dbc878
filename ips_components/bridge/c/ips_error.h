/* Errors of a bridge: the last text, and the handler. At the bottom: every part may fail. */
#ifndef IPS_ERROR_H
#define IPS_ERROR_H

#include "ips_bridge.h"

/* The first member of struct ips_bridge. */
typedef struct errors {
    char text[1024];
    ips_bridge_error_handler handler;
    void *handler_data;
    const char *array; /* that is being put, at this step by this rank; NULL: none */
    int64_t step;
    int rank;
} errors;

/* From here on errors are those of a put, and name array, step and rank. That the analytics are
 * lost is no error of the put, and stays as it is. */
void ipsb_put_begins(ips_bridge *b, const char *array, int64_t step);
int ipsb_put_ends(ips_bridge *b, int code); /* returns the code */

/* Set the text, call the handler if the code is an error, and return the code. */
int ipsb_fail(ips_bridge *b, int code, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 3, 4)))
#endif
    ;

#endif
