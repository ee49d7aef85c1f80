/* Endpoint URLs: "tcp://host:port", where host is a name, 127.0.0.1, [::1] or [fe80::1%eth0].
 *
 * A wrong one is answered with a sentence that says what is wrong and what to write. It leaves out the URL,
 * so that it can follow it:  tcp://localhost: there is no port after the host: write tcp://127.0.0.1:7777
 *
 * Thread: any. */
#ifndef RONDO_NET_URL_H
#define RONDO_NET_URL_H

#include <netinet/in.h>
#include <stdint.h>
#include <sys/socket.h>

#define URL_HOST_BYTES    256 /* the longest host, 255, and its NUL */
#define URL_TEXT_BYTES    80  /* of the longest address: tcp://[IPv6%interface]:65535 */
#define URL_WHY_BYTES     384 /* a host, and what is said about it */
#define URL_ADDRESSES_MAX 16

struct url {
    char host[URL_HOST_BYTES]; /* without brackets */
    uint16_t port;
};

/* What bind(2) takes: &address.any and address.size. */
struct url_address {
    socklen_t size;
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    };
};

struct url_addresses {
    struct url_address at[URL_ADDRESSES_MAX];
    unsigned count;
};

/* Take a URL apart. Names are not looked up.
 *
 *   why   when it fails: one sentence; else left alone
 *
 * Returns 0 or -EINVAL, and then `url` is undefined. */
int url_parse(const char *text, struct url *url, char why[URL_WHY_BYTES]);

/* Find the addresses to listen on: what getaddrinfo says, in its order, each once. It may ask a name server
 * and wait for the answer.
 *
 *   why   when it fails: one sentence, which names the host; else left alone
 *
 * Returns 0, with at least one address; -ENOENT: there is no such host; -EAGAIN: no name server answers now;
 * -E2BIG: there are more than URL_ADDRESSES_MAX; -ENOMEM; for other failures -EHOSTUNREACH or their errno. */
int url_resolve(const struct url *url, struct url_addresses *addresses, char why[URL_WHY_BYTES]);

/* The same for other purposes, with getaddrinfo's flags (AI_NUMERICHOST: don't ask anybody). When it returns -E2BIG, the
 * first URL_ADDRESSES_MAX addresses are there. */
int url_look_up(const struct url *url, int flags, struct url_addresses *addresses, char why[URL_WHY_BYTES]);

/* Add an IPv4 or IPv6 address (asserted), unless it is there already. Returns 0, or -E2BIG when all places
 * are taken. */
int url_addresses_add(struct url_addresses *addresses, const struct sockaddr *address);

/* Write an IPv4 or IPv6 address (asserted) as a URL: "tcp://127.0.0.1:7777", "tcp://[::1]:7777". */
void url_format(const struct sockaddr *address, char text[URL_TEXT_BYTES]);

#endif
