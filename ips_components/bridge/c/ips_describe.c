/* Arrays as the program describes them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "ips_describe.h"
#include "ips_dtype.h"

static bool is_name(const char *name)
{
    static const char first[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_";
    static const char rest[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789.";
    return name && *name && strchr(first, *name) && name[strspn(name, rest)] == '\0';
}

int ips_bridge_declare(ips_bridge *b, const char *name, const char *dtype, int ndim,
                       const int64_t *shape)
{
    char explicit_name[24];
    int64_t itemsize = ipsb_dtype(dtype, explicit_name);
    array *a;
    if (!b)
        return IPS_BRIDGE_USAGE;
    if (!is_name(name))
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "an array's name must consist of letters, digits, '_' and '.', and begin "
                         "with a letter or '_'");
    if (b->joined)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "array %s: declare arrays before the join", name);
    if (!itemsize)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "array %s: unknown dtype %s", name,
                         dtype ? dtype : "NULL");
    if (ndim < 0 || ndim > IPS_BRIDGE_MAX_DIMS || (ndim && !shape))
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "array %s: expected 0 to %d dimensions, got %d", name,
                         IPS_BRIDGE_MAX_DIMS, ndim);
    for (int d = 0; d < ndim; d++)
        if (shape[d] < 1 && !(d == 0 && shape[d] == -1))
            return ipsb_fail(b, IPS_BRIDGE_USAGE,
                             "array %s: its shape must be >= 1 along dimension %d, got %lld", name,
                             d, (long long)shape[d]);
    a = ipsb_array(b, name);
    if (a && a->declared)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "array %s is declared twice", name);
    if (!a && !(a = ipsb_array_add(b, name)))
        return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for array %s", name);
    if (a->has_block && a->ndim != ndim)
        return ipsb_fail(b, IPS_BRIDGE_GEOMETRY, "array %s: its block has %d dimensions, not %d",
                         name, a->ndim, ndim);
    a->declared = b->described = true;
    a->ndim = ndim;
    a->itemsize = itemsize;
    a->ragged = ndim > 0 && shape[0] == -1;
    memcpy(a->dtype, explicit_name, sizeof a->dtype);
    for (int d = 0; d < ndim; d++)
        a->shape[d] = shape[d];
    return IPS_BRIDGE_OK;
}

int ips_bridge_set_partial(ips_bridge *b, int partial)
{
    if (!b)
        return IPS_BRIDGE_USAGE;
    if (b->joined)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "say before the join what this rank declares");
    b->partial = partial != 0;
    return IPS_BRIDGE_OK;
}

int ips_bridge_set_alone(ips_bridge *b, int alone)
{
    if (!b)
        return IPS_BRIDGE_USAGE;
    if (b->joined)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "say before the request whether the program may run alone");
    b->may_be_alone = alone != 0;
    return IPS_BRIDGE_OK;
}

/* The declared array, or a failure. */
static int declared(ips_bridge *b, const char *name, array **out)
{
    if (!b)
        return IPS_BRIDGE_USAGE;
    *out = name ? ipsb_array(b, name) : NULL;
    if (b->joined || !*out || !(*out)->declared)
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "array %s: declare it first, and describe it before the join",
                         name ? name : "NULL");
    return IPS_BRIDGE_OK;
}

int ips_bridge_steps(ips_bridge *b, const char *name, int64_t first, int64_t every, int64_t count)
{
    array *a;
    int code = declared(b, name, &a);
    if (code)
        return code;
    if (every < 1)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "array %s: steps must rise, got every = %lld", name,
                         (long long)every);
    a->first = first;
    a->every = every;
    a->steps = count > 0 ? count : -1;
    if (a->table) {
        a->table->first = a->first;
        a->table->every = a->every;
        a->table->steps = a->steps;
    }
    return IPS_BRIDGE_OK;
}

int ipsb_take_text(ips_bridge *b, buffer *out, char **text)
{
    ipsb_append(out, "", 1);
    if (out->failed) {
        ipsb_buffer_free(out);
        return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for a description");
    }
    free(*text);
    *text = (char *)out->data;
    return IPS_BRIDGE_OK;
}

int ips_bridge_dims(ips_bridge *b, const char *name, const char *dims)
{
    array *a;
    buffer out = {0};
    int code = declared(b, name, &a);
    if (code)
        return code;
    if (!dims)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "array %s: no names of dimensions", name);
    for (const char *at = dims; *at;) {
        size_t n = strcspn(at, ", ");
        char word[256];
        if (n && n < sizeof word) {
            memcpy(word, at, n);
            word[n] = '\0';
            if (out.length)
                ipsb_append(&out, ",", 1);
            ipsb_append_json_string(&out, word);
        }
        at += n + strspn(at + n, ", ");
    }
    return ipsb_take_text(b, &out, &a->dims);
}

/* Begin another attribute of a declared array, up to its value. */
static int begin_attribute(ips_bridge *b, const char *name, const char *attribute,
                           const void *value, array **a, buffer *out)
{
    int code = declared(b, name, a);
    if (code)
        return code;
    if (!attribute || !value)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "array %s: an attribute has a name and a value", name);
    if ((*a)->attributes) {
        ipsb_append(out, (*a)->attributes, strlen((*a)->attributes));
        ipsb_append(out, ",", 1);
    }
    ipsb_append_json_string(out, attribute);
    ipsb_append(out, ":", 1);
    return IPS_BRIDGE_OK;
}

int ips_bridge_attribute(ips_bridge *b, const char *name, const char *attribute, const char *text)
{
    array *a;
    buffer out = {0};
    int code = begin_attribute(b, name, attribute, text, &a, &out);
    if (code)
        return code;
    ipsb_append_json_string(&out, text);
    return ipsb_take_text(b, &out, &a->attributes);
}

/* A number as JSON, with Python's words for those that JSON lacks. */
static void append_double(buffer *out, double value)
{
    if (isfinite(value))
        ipsb_append_text(out, "%.17g", value);
    else
        ipsb_append_text(out, isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity");
}

int ips_bridge_attribute_doubles(ips_bridge *b, const char *name, const char *attribute,
                                 const double *values, int64_t count)
{
    array *a;
    buffer out = {0};
    int code = begin_attribute(b, name, attribute, values, &a, &out);
    if (code)
        return code;
    ipsb_append(&out, "[", count >= 0);
    for (int64_t i = 0; i < (count < 0 ? 1 : count); i++) {
        ipsb_append(&out, ",", i > 0);
        append_double(&out, values[i]);
    }
    ipsb_append(&out, "]", count >= 0);
    return ipsb_take_text(b, &out, &a->attributes);
}

int ips_bridge_attribute_integers(ips_bridge *b, const char *name, const char *attribute,
                                  const int64_t *values, int64_t count)
{
    array *a;
    buffer out = {0};
    int code = begin_attribute(b, name, attribute, values, &a, &out);
    if (code)
        return code;
    ipsb_append(&out, "[", count >= 0);
    for (int64_t i = 0; i < (count < 0 ? 1 : count); i++)
        ipsb_append_text(&out, "%s%lld", i ? "," : "", (long long)values[i]);
    ipsb_append(&out, "]", count >= 0);
    return ipsb_take_text(b, &out, &a->attributes);
}

int ips_bridge_block(ips_bridge *b, const char *name, const char *dtype, int ndim,
                     const int64_t *offset, const int64_t *count, const int64_t *halo)
{
    char explicit_name[24] = "";
    array *a;
    if (!b)
        return IPS_BRIDGE_USAGE;
    if (!is_name(name) || b->joined)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "say which block this rank has before the join");
    if (dtype && !ipsb_dtype(dtype, explicit_name))
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "array %s: unknown dtype %s", name, dtype);
    a = ipsb_array(b, name);
    if (ndim < 0 || ndim > IPS_BRIDGE_MAX_DIMS || (offset && !count) ||
        (a && a->ndim >= 0 && a->ndim != ndim))
        return ipsb_fail(b, IPS_BRIDGE_GEOMETRY, "array %s: a block of %d dimensions", name, ndim);
    if (a && (a->ragged || a->by_id))
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "array %s is %s: it has rows, not blocks", name,
                         a->ragged ? "ragged" : "indexed by ids");
    for (int d = 0; d < ndim; d++)
        if ((offset && (offset[d] < 0 || count[d] < 0)) || (halo && halo[d] < 0))
            return ipsb_fail(b, IPS_BRIDGE_GEOMETRY,
                             "array %s: offset, count and halo must be >= 0 along dimension %d",
                             name, d);
    if (!a && !(a = ipsb_array_add(b, name)))
        return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for array %s", name);
    a->has_block = true;
    a->ndim = ndim;
    if (dtype)
        memcpy(a->block_dtype, explicit_name, sizeof a->block_dtype);
    if (dtype && !a->declared) /* if the analysis wants none of it, nothing else says it */
        a->itemsize = ipsb_dtype(dtype, explicit_name);
    for (int d = 0; d < ndim && halo; d++)
        a->halo_low[d] = a->halo_high[d] = halo[d];
    a->has_halo |= halo != NULL;
    a->varies |= ndim && !offset;
    return a->varies || ipsb_add_box(a, offset, count)
               ? IPS_BRIDGE_OK
               : ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for array %s", name);
}

/* An array of so many dimensions that is described before the join; made if it is new. */
static int described(ips_bridge *b, const char *name, int ndim, array **out)
{
    if (!b)
        return IPS_BRIDGE_USAGE;
    if (!is_name(name) || b->joined)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "array %s: describe it before the join",
                         name ? name : "NULL");
    *out = ipsb_array(b, name);
    if (*out && ((*out)->ragged || (*out)->by_id))
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "array %s has rows, which have neither halo nor shared points", name);
    if (ndim < 0 || ndim > IPS_BRIDGE_MAX_DIMS || (*out && (*out)->ndim >= 0 && (*out)->ndim != ndim))
        return ipsb_fail(b, IPS_BRIDGE_GEOMETRY, "array %s: expected %d dimensions, got %d", name,
                         *out ? (*out)->ndim : IPS_BRIDGE_MAX_DIMS, ndim);
    if (!*out && !(*out = ipsb_array_add(b, name)))
        return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for array %s", name);
    (*out)->ndim = ndim;
    return IPS_BRIDGE_OK;
}

int ips_bridge_halo(ips_bridge *b, const char *name, int ndim, const int64_t *low,
                    const int64_t *high)
{
    array *a;
    for (int d = 0; b && low && high && d < ndim && d < IPS_BRIDGE_MAX_DIMS; d++)
        if (low[d] < 0 || high[d] < 0)
            return ipsb_fail(b, IPS_BRIDGE_GEOMETRY,
                             "array %s: a halo must be >= 0, got %lld and %lld along dimension %d",
                             name ? name : "NULL", (long long)low[d], (long long)high[d], d);
    int code = described(b, name, ndim, &a);
    if (code)
        return code;
    if (ndim && (!low || !high))
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "array %s: a halo has two sides", name);
    for (int d = 0; d < ndim; d++) {
        a->halo_low[d] = low[d];
        a->halo_high[d] = high[d];
    }
    a->has_halo = true;
    return IPS_BRIDGE_OK;
}

int ips_bridge_shared(ips_bridge *b, const char *name, int ndim, const int *owner)
{
    array *a;
    int code = described(b, name, ndim, &a);
    if (code)
        return code;
    for (int d = 0; d < ndim; d++) {
        if (!owner || owner[d] < IPS_BRIDGE_NOBODY || owner[d] > IPS_BRIDGE_HIGH)
            return ipsb_fail(b, IPS_BRIDGE_USAGE,
                             "array %s: the owner of shared points along dimension %d must be one "
                             "of enum ips_bridge_owner",
                             name, d);
        if (owner[d] && a->declared && a->shape[d] < 2)
            return ipsb_fail(b, IPS_BRIDGE_GEOMETRY,
                             "array %s: dimension %d has shared points, so that it must have at "
                             "least 2, got %lld",
                             name, d, (long long)a->shape[d]);
    }
    for (int d = 0; d < ndim; d++)
        a->shared[d] = owner[d];
    a->has_shared = true;
    return IPS_BRIDGE_OK;
}

int ips_bridge_levels(ips_bridge *b, const char *name, int levels, int refinement)
{
    int64_t numbers[2] = {levels, refinement}, shape[2] = {-1, 0};
    char table[512];
    array *a;
    int code = declared(b, name, &a);
    if (code)
        return code;
    if (!a->ragged || a->ndim < 2 || levels < 1 || refinement < 1 || a->table)
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "array %s has levels once, so that its rows are blocks: it must be ragged "
                         "and have a shape such as (-1, 8, 8); got %d levels, refinement %d",
                         name, levels, refinement);
    snprintf(table, sizeof table, "%s.blocks", name);
    shape[1] = a->ndim;
    code = ips_bridge_attribute_integers(b, name, "block_levels", &numbers[0], -1);
    if (!code)
        code = ips_bridge_attribute_integers(b, name, "block_refinement", &numbers[1], -1);
    if (!code)
        code = ips_bridge_declare(b, table, "i8", 2, shape);
    if (!code)
        code = ips_bridge_dims(b, table, "block,level_and_place");
    if (!code)
        code = ips_bridge_attribute(b, table, "block_table_of", name);
    if (code)
        return code;
    a->levels = levels;
    a->table = ipsb_array(b, table);
    a->table->first = a->first;
    a->table->every = a->every;
    a->table->steps = a->steps;
    return IPS_BRIDGE_OK;
}

int ips_bridge_ids(ips_bridge *b, const char *name, int owner, int64_t n, const int64_t *ids)
{
    array *a;
    int64_t *copy = NULL;
    if (!b)
        return IPS_BRIDGE_USAGE;
    if (!is_name(name) || b->joined)
        return ipsb_fail(b, IPS_BRIDGE_USAGE, "array %s: describe its ids before the join",
                         name ? name : "NULL");
    a = ipsb_array(b, name);
    if (owner < IPS_BRIDGE_NOBODY || owner > IPS_BRIDGE_HIGH || n < 0 || n > (int64_t)1 << 48)
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "array %s: the owner of shared ids must be one of enum ips_bridge_owner, "
                         "and their number >= 0",
                         name);
    if (a && (a->ragged || a->has_block || (a->declared && !a->ndim)))
        return ipsb_fail(b, IPS_BRIDGE_USAGE,
                         "array %s %s, so that ids cannot index it", name,
                         a->ragged      ? "is ragged"
                         : a->has_block ? "has blocks"
                                        : "is a single number");
    if (!a && !(a = ipsb_array_add(b, name)))
        return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for array %s", name);
    if (ids && !(copy = malloc(sizeof *copy * ((size_t)n + 1))))
        return ipsb_fail(b, IPS_BRIDGE_MEMORY, "no memory for the ids of array %s", name);
    if (ids)
        memcpy(copy, ids, sizeof *copy * (size_t)n);
    free(a->ids);
    a->ids = copy;
    a->n_ids = ids ? n : 0;
    a->has_ids = ids != NULL;
    a->by_id = owner == IPS_BRIDGE_LOW ? LOW_IDS : owner == IPS_BRIDGE_HIGH ? HIGH_IDS : UNIQUE_IDS;
    return IPS_BRIDGE_OK;
}
