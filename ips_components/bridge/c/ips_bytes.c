/* Growing bytes, and keys of JSON texts. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "ips_bytes.h"

bool ipsb_reserve(buffer *b, size_t more)
{
    size_t room = b->room ? b->room : 256;
    uint8_t *data;
    if (b->failed || more > SIZE_MAX / 4 || b->length > SIZE_MAX / 4) {
        b->failed = true;
        return false;
    }
    if (b->length + more <= b->room)
        return true;
    while (room < b->length + more)
        room *= 2;
    data = realloc(b->data, room);
    if (!data) {
        b->failed = true;
        return false;
    }
    b->data = data;
    b->room = room;
    return true;
}

void ipsb_append(buffer *b, const void *data, size_t length)
{
    if (length && ipsb_reserve(b, length)) {
        memcpy(b->data + b->length, data, length);
        b->length += length;
    }
}

void ipsb_append_text(buffer *b, const char *format, ...)
{
    char text[512];
    va_list values;
    va_start(values, format);
    int n = vsnprintf(text, sizeof text, format, values);
    va_end(values);
    if (n > 0)
        ipsb_append(b, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
}

void ipsb_append_json_string(buffer *b, const char *text)
{
    ipsb_append(b, "\"", 1);
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            ipsb_append_text(b, "\\%c", c);
        else if (c < 0x20)
            ipsb_append_text(b, "\\u%04x", c);
        else
            ipsb_append(b, text, 1);
    }
    ipsb_append(b, "\"", 1);
}

void ipsb_buffer_free(buffer *b)
{
    free(b->data);
    memset(b, 0, sizeof *b);
}

/* Past the string that begins at `at` (a quote); NULL when it does not end. */
static const char *past_string(const char *at, const char *end)
{
    for (at++; at < end; at++) {
        if (*at == '\\')
            at++;
        else if (*at == '"')
            return at + 1;
    }
    return NULL;
}

static const char *past_space(const char *at, const char *end)
{
    while (at < end && (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r'))
        at++;
    return at;
}

const char *ipsb_json_find(const char *text, size_t length, int depth, const char *key)
{
    const char *at = text, *end = text + length;
    size_t n = strlen(key);
    int now = 0;
    while (at && at < end) {
        if (*at == '{' || *at == '[') {
            now++;
        } else if (*at == '}' || *at == ']') {
            now--;
        } else if (*at == '"') {
            const char *begin = at + 1;
            at = past_string(at, end);
            if (!at)
                return NULL;
            bool same = now == depth && (size_t)(at - begin) == n + 1 && !memcmp(begin, key, n);
            at = past_space(at, end);
            if (same && at < end && *at == ':') {
                at = past_space(at + 1, end);
                return at < end ? at : NULL;
            }
            continue;
        }
        at++;
    }
    return NULL;
}
