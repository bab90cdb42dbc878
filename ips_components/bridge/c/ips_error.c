/* Errors and versions. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "ips_error.h"

/* A bridge begins with its errors. */
static errors *of(ips_bridge *b)
{
    return (errors *)(void *)b;
}

void ipsb_put_begins(ips_bridge *b, const char *array, int64_t step)
{
    of(b)->array = array;
    of(b)->step = step;
}

int ipsb_put_ends(ips_bridge *b, int code)
{
    of(b)->array = NULL;
    return code;
}

int ipsb_fail(ips_bridge *b, int code, const char *format, ...)
{
    static const char put[] = "put of array ";
    errors *e = of(b);
    char text[sizeof e->text];
    size_t n = 0;
    va_list values;
    if (e->array && code != IPS_BRIDGE_LOST && strncmp(format, put, sizeof put - 1) != 0)
        n = (size_t)snprintf(text, sizeof text, "%s%.200s at step %lld on rank %d: ", put, e->array,
                             (long long)e->step, e->rank);
    va_start(values, format);
    vsnprintf(text + n, sizeof text - n, format, values);
    va_end(values);
    memcpy(e->text, text, sizeof text);
    if (code > 0 && e->handler)
        e->handler(b, code, e->text, e->handler_data);
    return code;
}

int ips_bridge_set_error_handler(ips_bridge *b, ips_bridge_error_handler handler, void *data)
{
    if (!b)
        return IPS_BRIDGE_USAGE;
    of(b)->handler = handler;
    of(b)->handler_data = data;
    return IPS_BRIDGE_OK;
}

const char *ips_bridge_error(const ips_bridge *b)
{
    return b ? ((const errors *)(const void *)b)->text : "there is no bridge: open one first";
}

int ips_bridge_set_error(ips_bridge *b, int code, const char *text)
{
    return b ? ipsb_fail(b, code, "%s", text ? text : "") : code;
}

const char *ips_bridge_code_text(int code)
{
    static const char *const texts[] = {
        "success", "wrong use", "wrong geometry", "no usable contact file",
        "no usable contract", "protocol broken", "refused", "deadline exceeded",
        "analytics lost", "out of memory", "system call failed", "unknown code",
        "not everything was taken",
    };
    if (code == IPS_BRIDGE_NOTHING)
        return "no such value";
    if (code == IPS_BRIDGE_STOPPED)
        return "the analysis has stopped the run, or returned";
    return code >= 0 && (size_t)code < sizeof texts / sizeof *texts ? texts[code] : "unknown code";
}

const char *ips_bridge_version(void)
{
    return IPS_BRIDGE_VERSION;
}
