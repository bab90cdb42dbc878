/* The life of a slot as a table. */
#include "ips_leases.h"

/* State plus one after each event, by state; 0: the event is not allowed. */
#define TO(state) ((unsigned char)(state) + 1)
static const unsigned char after[SLOT_STATES][SLOT_EVENTS] = {
    [SLOT_FREE] = {[SLOT_TAKE] = TO(SLOT_WRITING), [SLOT_USE] = TO(SLOT_SENT)},
    [SLOT_WRITING] = {[SLOT_PUBLISH] = TO(SLOT_SENT), [SLOT_CANCEL] = TO(SLOT_FREE)},
    [SLOT_SENT] = {[SLOT_USE] = TO(SLOT_SENT),
                   [SLOT_UNUSED] = TO(SLOT_FREE),
                   [SLOT_LEASE_LOST] = TO(SLOT_RETIRED)},
    [SLOT_RETIRED] = {[SLOT_USE] = TO(SLOT_RETIRED),
                      [SLOT_UNUSED] = TO(SLOT_RETIRED),
                      [SLOT_LEASE_LOST] = TO(SLOT_RETIRED)},
};

slot_state ipsb_slot_after(slot_state state, slot_event event)
{
    unsigned next = state < SLOT_STATES && event < SLOT_EVENTS ? after[state][event] : 0;
    return next ? (slot_state)(next - 1) : SLOT_STATES;
}
