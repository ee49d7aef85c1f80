/* A transport under test, and its peer: a real TCP connection over loopback, or a Unix one. The transport's end belongs to a loop that
 * the test turns itself, the peer's end is a plain socket of the test, so everything happens in one thread, in an
 * order the test decides, and nothing sleeps.
 *
 *   given    struct pair p; pair_open(&p, &recording_echo);
 *   when     peer_send(&p, "last words"); peer_shutdown(&p); pair_run_until_lost(&p);
 *   then     cr_assert(eq(str, p.calls, "CM DR ER CL"));
 *            pair_close(&p);      the books balance: no transport, buffer or operation is left
 */
#ifndef RONDO_TESTS_PAIR_H
#define RONDO_TESTS_PAIR_H

#include <rondo/rondo.h>

#include "core/loop.h"
#include "net/service.h"
#include "net/transport.h"

/* What is called back is written down in asyncio's letters: CM connection_made, DR data_received (once for a row of them),
 * GB get_buffer, BU buffer_updated (likewise), ER eof_received, PW pause_writing, RW resume_writing, CL connection_lost. */
struct pair {
    rondo_loop *loop;
    struct world *world;
    rondo_transport *t; /* NULL after connection_lost */
    int peer;           /* non-blocking */

    char calls[1024];
    char *received; /* all bytes that the protocol was given */
    size_t received_size;
    unsigned lost_count;
    int lost_error;

    /* What the test wants done in a callback, beside writing it down. */
    void (*on_made)(struct pair *p);
    void (*on_data)(struct pair *p, rondo_bytes data);
    void (*on_eof)(struct pair *p);
    void (*on_pause)(struct pair *p);
    void (*on_resume)(struct pair *p);
    void (*on_lost)(struct pair *p);
    bool is_unix;           /* a Unix socket, not TCP: set before pair_open */
    bool stay_open;         /* eof_received returns it */
    int note;               /* the test's own */
    char memory[32 * 1024]; /* get_buffer's */
    size_t memory_size;     /* so much of it: 0 is 64 bytes */
};

/* A loop and a service, shared by the pairs of a test. */
struct world {
    rondo_loop loop;
    struct service service;
    struct service_settings settings;
    rondo_app app;
};

extern const rondo_protocol recording;          /* writes down only */
extern const rondo_protocol recording_echo;     /* and writes back what it receives */
extern const rondo_protocol recording_flow;     /* with pause_writing and resume_writing */
extern const rondo_protocol recording_buffered; /* with get_buffer and buffer_updated; echoes */

/* size: NULL for a small engine of 16 buffers of 4 KiB. */
void world_open(struct world *world, const struct engine_size *size);
void world_close(struct world *world);

/* In a world of its own, or of the test's. The fields that guide callbacks are kept. */
void pair_open(struct pair *p, const rondo_protocol *protocol);
void pair_open_in(struct pair *p, struct world *world, const rondo_protocol *protocol);

/* Turn the loop without waiting, until all that the peer's calls have caused is done. */
void pair_turn(struct pair *p);
/* Turn it, waiting, until `condition`; fails after 10 s. */
void pair_run_until(struct pair *p, bool (*condition)(struct pair *p));
void pair_run_until_lost(struct pair *p);
void pair_run_until_received(struct pair *p, size_t size);

void peer_send(struct pair *p, const char *text);
/* All of it, turning the loop meanwhile, and reading what comes when `read_back` is not NULL: size bytes of room. */
void peer_send_all(struct pair *p, const char *data, size_t size, char *read_back);
void peer_shutdown(struct pair *p);
void peer_reset(struct pair *p);
void peer_close(struct pair *p);
/* Turn the loop until so much has come, or EOF (less is returned), or an error (its negative errno). */
ssize_t peer_receive(struct pair *p, char *data, size_t size);
/* The text until EOF, static. */
const char *peer_receive_text(struct pair *p);
void limit_peer(struct pair *p, int bytes); /* its receive buffer, and our send buffer */

/* Ends both sides if that has not happened, frees, and checks that nothing is left. */
void pair_close(struct pair *p);

/* A pattern that differs at each place. */
void fill_pattern(char *data, size_t size, unsigned seed);

#endif
