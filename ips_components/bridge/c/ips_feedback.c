/* Values that the analysis sent: the newest ones are kept. */
#include <stdbool.h>
#include <stdlib.h>

#include "ips_feedback.h"

enum {
    FEEDBACK_KEPT = 4096,
    LARGE = 1 << 16 /* bytes from which only the two latest values of a name are kept */
};

static void free_feedback(feedback *f)
{
    free(f->name);
    free(f->data);
    free(f);
}

void ipsb_feedback_free(ips_bridge *b)
{
    while (b->feedback) {
        feedback *next = b->feedback->next;
        free_feedback(b->feedback);
        b->feedback = next;
    }
    b->n_feedback = 0;
}

feedback *ipsb_feedback(ips_bridge *b, const char *name, int64_t step, bool exact)
{
    feedback *best = NULL;
    for (feedback *f = b->feedback; f; f = f->next)
        if ((f->step == step || (!exact && f->step < step)) && !strcmp(f->name, name) &&
            (!best || f->step > best->step))
            best = f;
    return best;
}

/* Free the earliest of more than two values of a name; whether there was one. */
static bool drop_beyond_two(ips_bridge *b, const char *name)
{
    feedback **earliest = NULL;
    int n = 0;
    for (feedback **at = &b->feedback; *at; at = &(*at)->next)
        if (!strcmp((*at)->name, name)) {
            n++;
            if (!earliest || (*at)->step < (*earliest)->step)
                earliest = at;
        }
    if (n <= 2)
        return false;
    feedback *old = *earliest;
    *earliest = old->next;
    free_feedback(old);
    return true;
}

/* Keep a value, newest first; one that is damaged is as good as none. */
void ipsb_feedback_store(ips_bridge *b, const message *m)
{
    feedback *f = calloc(1, sizeof *f);
    size_t count = 1;
    if (!f)
        return;
    f->step = m->step;
    f->kind = m->kind;
    f->ndim = m->ndim;
    if (m->ndim <= sizeof f->shape / sizeof *f->shape)
        for (int d = 0; d < m->ndim; d++) {
            uint64_t n = get64(m->shape + 8 * d);
            if (n > INT64_MAX || (n && count > SIZE_MAX / n)) {
                count = SIZE_MAX;
                break;
            }
            f->shape[d] = (int64_t)n;
            count *= (size_t)n;
        }
    bool numbers = m->kind <= IPS_BRIDGE_INTEGER;
    if (m->kind > IPS_BRIDGE_JSON || m->ndim > sizeof f->shape / sizeof *f->shape ||
        (numbers && (count > m->data_length / 8 || count * 8 != m->data_length))) {
        free(f);
        return;
    }
    f->count = numbers ? count : 1;
    f->bytes = m->data_length;
    f->name = malloc(m->text_length + 1);
    f->data = malloc(m->data_length + 8);
    if (!f->name || !f->data) {
        free_feedback(f);
        return;
    }
    memcpy(f->name, m->text, m->text_length);
    f->name[m->text_length] = '\0';
    if (numbers)
        for (size_t i = 0; i < count; i++) {
            uint64_t bits = get64(m->data + 8 * i);
            memcpy(f->data + 8 * i, &bits, 8);
        }
    else
        memcpy(f->data, m->data, m->data_length);
    f->data[f->bytes] = '\0';
    for (feedback **at = &b->feedback; *at; at = &(*at)->next)
        if ((*at)->step == f->step && !strcmp((*at)->name, f->name)) {
            feedback *old = *at;
            *at = old->next;
            free_feedback(old);
            b->n_feedback--;
            break;
        }
    f->next = b->feedback;
    b->feedback = f;
    if (f->bytes >= LARGE && drop_beyond_two(b, f->name))
        b->n_feedback--;
    if (++b->n_feedback <= FEEDBACK_KEPT)
        return;
    feedback **last = &b->feedback;
    while ((*last)->next)
        last = &(*last)->next;
    free_feedback(*last);
    *last = NULL;
    b->n_feedback--;
}
