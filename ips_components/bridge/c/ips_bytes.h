/* Little-endian numbers, growing bytes, and keys of JSON texts. */
#ifndef IPS_BYTES_H
#define IPS_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t get32(const uint8_t *p)
{
    return get16(p) | (uint32_t)get16(p + 2) << 16;
}

static inline uint64_t get64(const uint8_t *p)
{
    return get32(p) | (uint64_t)get32(p + 4) << 32;
}

static inline int64_t get_i64(const uint8_t *p)
{
    uint64_t bits = get64(p);
    int64_t value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline void set16(uint8_t *p, uint16_t value)
{
    p[0] = (uint8_t)value;
    p[1] = (uint8_t)(value >> 8);
}

static inline void set32(uint8_t *p, uint32_t value)
{
    set16(p, (uint16_t)value);
    set16(p + 2, (uint16_t)(value >> 16));
}

static inline void set64(uint8_t *p, uint64_t value)
{
    set32(p, (uint32_t)value);
    set32(p + 4, (uint32_t)(value >> 32));
}

/* ---- Growing bytes -------------------------------------------------------------------------- */

typedef struct buffer {
    uint8_t *data;
    size_t length, room;
    bool failed; /* a growth found no memory; later ones do nothing */
} buffer;

bool ipsb_reserve(buffer *b, size_t more); /* room for `more` bytes behind the present ones */
void ipsb_append(buffer *b, const void *data, size_t length);
void ipsb_append_text(buffer *b, const char *format, ...);
void ipsb_append_json_string(buffer *b, const char *text);
void ipsb_buffer_free(buffer *b);

/* The value of a key of the JSON object at nesting depth `depth` (1: the outermost), or NULL. */
const char *ipsb_json_find(const char *text, size_t length, int depth, const char *key);
/* Append the JSON string that begins at `at`, decoded; past it, or NULL when it is none. */
const char *ipsb_json_string(const char *at, const char *end, buffer *out);
const char *ipsb_json_space(const char *at, const char *end); /* past white space */

#endif
