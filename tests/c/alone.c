/* Every call of a bridge without an analysis; prints what went wrong. */
#include <stdio.h>
#include <string.h>

#include "ips_bridge.h"

static int failures;

static void expect(int line, int code, int expected, ips_bridge *bridge)
{
    if (code == expected)
        return;
    failures++;
    printf("line %d: code %d, expected %d: %s\n", line, code, expected, ips_bridge_error(bridge));
}
#define OK(call) expect(__LINE__, call, IPS_BRIDGE_OK, b)
#define GIVES(expected, call) expect(__LINE__, call, expected, b)

int main(int argc, char **argv)
{
    const int64_t shape = 8, offset = 0, count = 8, halo = 1;
    const void *blob;
    size_t length;
    double cells[10] = {0}, gain = 0.5;
    int64_t n = 0;
    void *room;
    int stop = 1;
    ips_bridge *b;
    ips_bridge_account account;
    ips_bridge_open(&b, 0, 1);
    if (argc > 1 && !strcmp(argv[1], "alone"))
        OK(ips_bridge_set_alone(b, 1));
    OK(ips_bridge_declare(b, "t", "f8", 1, &shape));
    OK(ips_bridge_block(b, "t", "f8", 1, &offset, &count, &halo));
    if (ips_bridge_request(b, NULL, &blob, &length)) {
        puts(ips_bridge_error(b));
        ips_bridge_free(b);
        return 2;
    }
    OK(ips_bridge_join(b, blob, length));
    GIVES(1, ips_bridge_is_alone(b));
    GIVES(IPS_BRIDGE_USAGE, ips_bridge_set_alone(b, 1));
    for (int step = 0; step < 3; step++)
        OK(ips_bridge_put(b, "t", step, cells));
    GIVES(0, ips_bridge_wants(b, "t", 3));
    OK(ips_bridge_acquire(b, "t", 3, &room));
    memset(room, 0, sizeof cells);
    OK(ips_bridge_publish(b, "t"));
    OK(ips_bridge_step_end(b, 3));
    OK(ips_bridge_rewind(b, 2));
    OK(ips_bridge_put(b, "t", 2, cells));
    OK(ips_bridge_progress(b));
    OK(ips_bridge_wait(b, -1));
    OK(ips_bridge_should_stop(b, &stop));
    GIVES(0, stop);
    GIVES(IPS_BRIDGE_NOTHING, ips_bridge_receive_doubles(b, "gain", 2, 0, &gain, 1, &n));
    GIVES(IPS_BRIDGE_STOPPED, ips_bridge_receive_doubles(b, "gain", 2, -1, &gain, 1, &n));
    GIVES(0, ips_bridge_lost(b) != NULL);
    OK(ips_bridge_statistics(b, "t", &account));
    GIVES(5, (int)account.blocks[1]);
    OK(ips_bridge_close(b, 0, NULL));
    ips_bridge_free(b);
    return failures != 0;
}
