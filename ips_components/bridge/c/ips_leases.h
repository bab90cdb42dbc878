/* The life of a slot: which events move it where (wire/leases.py has the same table). */
#ifndef IPS_LEASES_H
#define IPS_LEASES_H

typedef enum slot_state { SLOT_FREE, SLOT_WRITING, SLOT_SENT, SLOT_RETIRED, SLOT_STATES } slot_state;

typedef enum slot_event {
    SLOT_TAKE,
    SLOT_PUBLISH,
    SLOT_CANCEL,
    SLOT_USE,
    SLOT_UNUSED,
    SLOT_LEASE_LOST,
    SLOT_EVENTS
} slot_event;

/* The state after an event, SLOT_STATES when the table does not allow it. */
slot_state ipsb_slot_after(slot_state state, slot_event event);

#endif
