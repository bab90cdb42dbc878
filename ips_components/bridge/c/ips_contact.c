/* The contact file: checked for owner and mode before a word of it is believed. It is JSON; the
 * record that this reader wants lies in its key "binary" (ips_components/wire/contact.py). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ips_contact.h"

enum { MAX_FILE = 16 << 20, RECORD = 168 };

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

/* Append what the hexadecimal digits up to the closing quote say. */
static bool unhex(const char *at, const char *end, buffer *out)
{
    for (; at + 1 < end && *at != '"'; at += 2) {
        int high = hex_digit(at[0]), low = hex_digit(at[1]);
        uint8_t byte = (uint8_t)(high << 4 | low);
        if (high < 0 || low < 0)
            return false;
        ipsb_append(out, &byte, 1);
    }
    return at < end && *at == '"' && !out->failed;
}

static int parse_file(const char *path, const char *text, size_t length, buffer *record, char *why,
                      size_t room)
{
    static const char format[] = "\"ips-components-contact\"";
    const char *found = ipsb_json_find(text, length, 1, "format"), *end = text + length;
    if (!found || (size_t)(end - found) < sizeof format - 1 ||
        memcmp(found, format, sizeof format - 1) != 0) {
        snprintf(why, room, "%s is not a contact file of IPS components", path);
        return IPS_BRIDGE_CONTACT;
    }
    found = ipsb_json_find(text, length, 1, "version");
    if (!found || end - found < 2 || found[0] != '3' || (found[1] >= '0' && found[1] <= '9')) {
        snprintf(why, room,
                 "contact file %s has another version than 3: install the same release of "
                 "ips_components on both sides",
                 path);
        return IPS_BRIDGE_CONTACT;
    }
    found = ipsb_json_find(text, length, 1, "binary");
    if (!found || *found != '"' || !unhex(found + 1, end, record)) {
        snprintf(why, room, "contact file %s is damaged: it has no binary record", path);
        return IPS_BRIDGE_CONTACT;
    }
    return IPS_BRIDGE_OK;
}

int ipsb_contact_read(const char *path, buffer *record, bool *missing, char *why, size_t room)
{
    struct stat status;
    char *text = NULL;
    size_t length = 0;
    int code = IPS_BRIDGE_CONTACT;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    *missing = fd < 0 && errno == ENOENT;
    if (fd < 0) {
        snprintf(why, room, "contact file %s cannot be opened: %s", path, strerror(errno));
        return IPS_BRIDGE_CONTACT;
    }
    if (fstat(fd, &status)) {
        snprintf(why, room, "contact file %s: %s", path, strerror(errno));
    } else if (!S_ISREG(status.st_mode)) {
        snprintf(why, room, "contact file %s is not a regular file", path);
    } else if (status.st_uid != geteuid()) {
        snprintf(why, room,
                 "contact file %s belongs to user %lu, this process is user %lu: it is not trusted",
                 path, (unsigned long)status.st_uid, (unsigned long)geteuid());
    } else if (status.st_mode & 077) {
        snprintf(why, room,
                 "contact file %s has mode %04o, expected 0600: its token may be known to others; "
                 "start the run anew",
                 path, (unsigned)(status.st_mode & 07777));
    } else if (status.st_size > MAX_FILE) {
        snprintf(why, room, "contact file %s has too many bytes", path);
    } else if (!(text = malloc((size_t)status.st_size + 1))) {
        snprintf(why, room, "no memory for the contact file");
        code = IPS_BRIDGE_MEMORY;
    } else {
        while (length < (size_t)status.st_size) {
            ssize_t n = read(fd, text + length, (size_t)status.st_size - length);
            if (n <= 0)
                break;
            length += (size_t)n;
        }
        code = parse_file(path, text, length, record, why, room);
    }
    free(text);
    close(fd);
    return code;
}

static double real64(const uint8_t *p)
{
    uint64_t bits = get64(p);
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

const char *ipsb_contact_parse(contact *out, const uint8_t *data, size_t length)
{
    double *deadlines[] = {&out->connect, &out->contract, &out->step, &out->drain};
    memset(out, 0, sizeof *out);
    if (length < RECORD || memcmp(data, "IPSCTCT2", 8) != 0)
        return "the contact is damaged";
    memcpy(out->token, data + 8, TOKEN_BYTES);
    memcpy(out->run, data + 40, RUN_BYTES);
    for (int i = 0; i < 4; i++) {
        double seconds = real64(data + 104 + 8 * i);
        if (!(seconds >= 0))
            return "the contact has an impossible deadline";
        *deadlines[i] = seconds < 1e8 ? seconds : 1e8; /* keeps nanoseconds inside 64 bits */
    }
    out->lanes = get32(data + 136);
    out->abort_on_loss = get32(data + 140) == 1;
    out->replay_steps = get32(data + 144);
    out->tls = get32(data + 148) & 1;
    out->replay_bytes = get64(data + 152);
    out->slot_bytes = get64(data + 160);
    if (!(out->lanes & (LANE_TCP | LANE_SHM)) || get32(data + 140) > 1 || !out->run[0])
        return "the contact is damaged";
    if (out->replay_steps > 1u << 20)
        return "the contact asks for too many steps in the replay buffer";
    return ipsb_parse_endpoints(&out->receivers, data + RECORD, length - RECORD);
}
