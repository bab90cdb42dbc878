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

int ipsb_fail(ips_bridge *b, int code, const char *format, ...)
{
    errors *e = of(b);
    char text[sizeof e->text];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
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
