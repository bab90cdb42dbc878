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

const char *ipsb_json_space(const char *at, const char *end)
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
            at = ipsb_json_space(at, end);
            if (same && at < end && *at == ':') {
                at = ipsb_json_space(at + 1, end);
                return at < end ? at : NULL;
            }
            continue;
        }
        at++;
    }
    return NULL;
}

/* Four hexadecimal digits; -1: they are none. */
static long code_unit(const char *at, const char *end)
{
    long code = 0;
    if (end - at < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        static const char digits[] = "0123456789abcdef";
        const char *found = memchr(digits, at[i] | (at[i] > '9' ? 0x20 : 0), 16);
        if (!found)
            return -1;
        code = code << 4 | (found - digits);
    }
    return code;
}

static void append_utf8(buffer *out, long code)
{
    int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    uint8_t bytes[4];
    for (int i = more; i > 0; i--, code >>= 6)
        bytes[i] = (uint8_t)(0x80 | (code & 0x3f));
    bytes[0] = (uint8_t)(more ? (0xff00 >> (more + 1) & 0xff) | code : code);
    ipsb_append(out, bytes, (size_t)more + 1);
}

const char *ipsb_json_string(const char *at, const char *end, buffer *out)
{
    static const char escapes[] = "\"\"\\\\//b\bf\fn\nr\rt\t";
    if (at >= end || *at++ != '"')
        return NULL;
    while (at < end && *at != '"') {
        if (*at != '\\') {
            ipsb_append(out, at++, 1);
            continue;
        }
        if (end - ++at < 2)
            return NULL;
        if (*at == 'u') {
            long code = code_unit(at + 1, end), low;
            at += 5;
            if (code >= 0xd800 && code < 0xdc00 && end - at > 2 && at[0] == '\\' && at[1] == 'u' &&
                (low = code_unit(at + 2, end)) >= 0xdc00 && low < 0xe000) {
                code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
                at += 6;
            }
            if (code < 1) /* a name ends at a NUL */
                return NULL;
            append_utf8(out, code);
            continue;
        }
        int i = 0;
        while (escapes[i] && escapes[i] != *at)
            i += 2;
        if (!escapes[i])
            return NULL;
        ipsb_append(out, &escapes[i + 1], 1);
        at++;
    }
    return at < end ? at + 1 : NULL;
}
