/* Models that the analysis sent: named arrays of one version, received whole and broadcast as bytes.
 *
 * The bytes are words of 64 bits in the order of this machine: version, number of arrays; then, for each
 * array, bytes of its name, kind, dimensions, shape, numbers, and the name and the cells, each with
 * zeros up to a whole word. */
#include <stdlib.h>

#include "ips_feedback.h"

enum { WORD = 8, FACTS = 4, MAX_ARRAYS = 1 << 16 };

static void append_word(buffer *out, int64_t word)
{
    ipsb_append(out, &word, WORD);
}

/* Append bytes and at least one zero. */
static void append_padded(buffer *out, const void *data, size_t length)
{
    static const uint8_t zeros[WORD];
    ipsb_append(out, data, length);
    ipsb_append(out, zeros, WORD - length % WORD);
}

static size_t padded(size_t length)
{
    return length - length % WORD + WORD;
}

static int64_t word_at(const uint8_t *at)
{
    int64_t word;
    memcpy(&word, at, WORD);
    return word;
}

/* Append the array of a model that the list names; false when it is not there (any more). */
static bool append_array(ips_bridge *b, const char *model, const buffer *name, int64_t version,
                         buffer *out)
{
    buffer whole = {0};
    const feedback *f;
    ipsb_append_text(&whole, "%s/", model);
    ipsb_append(&whole, name->data, name->length + 1); /* with its NUL */
    f = whole.failed ? NULL : ipsb_feedback(b, (const char *)whole.data, version, true);
    ipsb_buffer_free(&whole);
    if (!f || f->kind > IPS_BRIDGE_INTEGER)
        return false;
    append_word(out, (int64_t)name->length);
    append_word(out, f->kind);
    append_word(out, f->ndim);
    append_word(out, (int64_t)f->count);
    for (int d = 0; d < f->ndim; d++)
        append_word(out, f->shape[d]);
    append_padded(out, name->data, name->length);
    append_padded(out, f->data, f->bytes);
    return true;
}

/* Pack the version that a list of names belongs to; false when it is not whole. */
static bool pack(ips_bridge *b, const char *model, const feedback *list, buffer *out)
{
    const char *text = (const char *)list->data, *end = text + list->bytes;
    const char *at = list->kind == IPS_BRIDGE_JSON ? ipsb_json_find(text, list->bytes, 1, "arrays")
                                                   : NULL;
    int64_t n = 0, version = list->step;
    bool whole = at && *at == '[';
    append_word(out, version);
    append_word(out, 0);
    while (whole && at < end && *at != ']') {
        buffer name = {0};
        at = ipsb_json_string(ipsb_json_space(at + 1, end), end, &name);
        at = at ? ipsb_json_space(at, end) : NULL;
        ipsb_append(&name, "", 1);
        name.length--;
        whole = at && at < end && (*at == ',' || *at == ']') && !name.failed && n++ < MAX_ARRAYS &&
                append_array(b, model, &name, version, out);
        ipsb_buffer_free(&name);
    }
    if (!whole || out->failed)
        return false;
    memcpy(out->data + WORD, &n, WORD);
    return n > 0;
}

/* Let the views look at the bytes of the bridge's model; false when they are none, or without memory. */
static bool view(ips_bridge *b, ips_bridge_model *model)
{
    const uint8_t *at = b->model.data, *end = at + b->model.length;
    int64_t n = b->model.length < 2 * WORD ? 0 : word_at(at + WORD);
    ips_bridge_value *values;
    const char **names;
    free(b->model_views);
    b->model_views = NULL;
    if (n < 1 || n > MAX_ARRAYS || b->model.length % WORD ||
        !(b->model_views = calloc((size_t)n, sizeof *values + sizeof *names)))
        return false;
    values = b->model_views;
    names = (const char **)(values + n);
    *model = (ips_bridge_model){word_at(at), (int)n, names, values};
    at += 2 * WORD;
    for (int64_t i = 0; i < n; i++) {
        int64_t room = end - at, length, ndim, count;
        if (room < FACTS * WORD)
            return false;
        length = word_at(at);
        ndim = word_at(at + 2 * WORD);
        count = word_at(at + 3 * WORD);
        if (length < 0 || length > room || ndim < 0 || ndim > 16 || count < 0 || count > room / WORD ||
            (int64_t)((size_t)(FACTS + ndim) * WORD + padded((size_t)length) +
                      padded((size_t)count * WORD)) > room)
            return false;
        values[i] = (ips_bridge_value){.step = model->version, .kind = (int)word_at(at + WORD),
                                       .ndim = (int)ndim, .count = (size_t)count,
                                       .bytes = (size_t)count * WORD};
        values[i].shape = (const int64_t *)(const void *)(at + FACTS * WORD);
        at += (FACTS + ndim) * WORD;
        names[i] = (const char *)at;
        at += padded((size_t)length);
        values[i].data = at;
        at += padded(values[i].bytes);
    }
    return true;
}

/* Copy as much of the structure as the program knows; what it knows beyond is zero. */
static int give(ips_bridge_model *to, size_t room, const ips_bridge_model *from)
{
    memset(to, 0, room);
    memcpy(to, from, room < sizeof *from ? room : sizeof *from);
    return IPS_BRIDGE_OK;
}

int ips_bridge_receive_model_sized(ips_bridge *b, const char *name, int64_t newer_than,
                                   double timeout, ips_bridge_model *model, size_t size)
{
    ips_bridge_value any;
    ips_bridge_model found;
    const feedback *list;
    int code = ips_bridge_receive(b, name, INT64_MAX, timeout, &any);
    if (code)
        return code;
    list = ipsb_feedback(b, name, INT64_MAX, false);
    if (!model)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "model %s: there is no place for it", name);
    b->model.length = 0;
    if (!list || list->step <= newer_than || !pack(b, name, list, &b->model)) {
        bool failed = b->model.failed;
        ipsb_buffer_free(&b->model);
        return failed ? ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for model %s", name)
                      : ipsb_fail(b, IPS_BRIDGE_NOTHING, "no whole version of model %s above %lld "
                                                         "came from the analysis",
                                  name, (long long)newer_than);
    }
    return view(b, &found) ? give(model, size, &found)
                           : ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for model %s", name);
}

int ips_bridge_get_model_bytes(ips_bridge *b, const void **bytes, size_t *length)
{
    if (!b || !bytes || !length)
        return b ? ipsb_fail(b, IPS_BRIDGE_USAGE, "there is no place for a model") : IPS_BRIDGE_USAGE;
    *bytes = b->model.data;
    *length = b->model.length;
    return *length ? IPS_BRIDGE_OK : ipsb_fail(b, IPS_BRIDGE_USAGE, "no model was received yet");
}

int ips_bridge_take_model_sized(ips_bridge *b, const void *bytes, size_t length,
                                ips_bridge_model *model, size_t size)
{
    ips_bridge_model found;
    if (!b)
        return IPS_BRIDGE_USAGE;
    if (!bytes || !model)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "there is no model, or no place for it");
    b->model.length = 0;
    ipsb_append(&b->model, bytes, length);
    if (b->model.failed) {
        ipsb_buffer_free(&b->model);
        return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for a model of %zu bytes", length);
    }
    return view(b, &found) ? give(model, size, &found)
                           : ipsb_fail(b, IPS_BRIDGE_PROTOCOL,
                                       "rank %d: %zu bytes are no model of rank 0", b->self.rank,
                                       length);
}
