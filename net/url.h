/* Endpoint URLs:
 *
 *   tcp://host:port          host is a name, 127.0.0.1, [::1] or [fe80::1%eth0]
 *   udp://host:port
 *   unix:///path?mode=0660   a socket file, by its absolute path; the mode is for who listens
 *   unix://@name             an abstract name, which no file holds
 *   unixgram:///path, unixgram://@name    the same for datagrams
 *   fd://3                   a listening socket that the process was given
 *
 * In a path and in an abstract name %XX is the byte of that number: so '?', '#' and '%' are written, and what can't be
 * seen. A path has no NUL.
 *
 * A wrong one is answered with a sentence that says what is wrong and what to write. It leaves out the URL,
 * so that it can follow it:  tcp://localhost: there is no port after the host: write tcp://127.0.0.1:7777
 *
 * Thread: any. */
#ifndef RONDO_NET_URL_H
#define RONDO_NET_URL_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#define URL_HOST_BYTES    256 /* the longest host, 255, and its NUL */
#define URL_PATH_BYTES    107 /* the longest path, and the longest abstract name, without NUL or '@' */
#define URL_TEXT_BYTES    340 /* of the longest address: unixgram://@ and a name of %XX only */
#define URL_WHY_BYTES     384 /* a host, and what is said about it */
#define URL_ADDRESSES_MAX 16

/* What bind(2) and connect(2) take: &address.any and address.size. */
struct url_address {
    socklen_t size;
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un local;
    };
};

enum url_scheme { URL_TCP, URL_UDP, URL_UNIX, URL_UNIXGRAM, URL_FD };

#define URL_NO_MODE (-1)

struct url {
    enum url_scheme scheme;
    char host[URL_HOST_BYTES]; /* of TCP and UDP: without brackets */
    uint16_t port;             /* of TCP and UDP */
    struct url_address local;  /* of Unix sockets */
    int mode;                  /* of Unix sockets: permission bits, or URL_NO_MODE */
    int fd;                    /* URL_FD */
};

/* udp and unixgram. */
bool url_is_of_datagrams(const struct url *url);

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

/* Find the addresses to listen on, of a tcp or unix URL: what getaddrinfo says, in its order, each once. It may
 * ask a name server and wait for the answer.
 *
 *   why   when it fails: one sentence, which names the host; else left alone
 *
 * Returns 0, with at least one address; -ENOENT: there is no such host; -EAGAIN: no name server answers now;
 * -E2BIG: there are more than URL_ADDRESSES_MAX; -ENOMEM; for other failures -EHOSTUNREACH or their errno. */
int url_resolve(const struct url *url, struct url_addresses *addresses, char why[URL_WHY_BYTES]);

/* The same for other purposes, with getaddrinfo's flags (AI_NUMERICHOST: don't ask anybody). When it returns -E2BIG, the
 * first URL_ADDRESSES_MAX addresses are there. */
int url_look_up(const struct url *url, int flags, struct url_addresses *addresses, char why[URL_WHY_BYTES]);

/* The same without waiting: the host is an address or "localhost", else -EINVAL. */
int url_resolve_now(const struct url *url, struct url_addresses *addresses, char why[URL_WHY_BYTES]);

/* Add an IPv4, IPv6 or Unix address (asserted), unless it is there already. Returns 0, or -E2BIG when all places
 * are taken. */
int url_addresses_add(struct url_addresses *addresses, const struct sockaddr *address);
int url_addresses_put(struct url_addresses *addresses, const struct url_address *address);

/* Write an IPv4 or IPv6 address (asserted) as a URL: "tcp://127.0.0.1:7777", "tcp://[::1]:7777". */
void url_format(const struct sockaddr *address, char text[URL_TEXT_BYTES]);
/* Likewise any; of a Unix one: "unix:///run/rondo.sock", "unix://@rondo". */
void url_format_address(const struct url_address *address, char text[URL_TEXT_BYTES]);
/* Of a socket for datagrams: "udp://127.0.0.1:7777", "unixgram://@rondo". */
void url_format_datagrams(const struct url_address *address, char text[URL_TEXT_BYTES]);

/* Is this an address with a port? Then a pointer to it, else NULL. */
uint16_t *url_port_of(struct url_address *address);

#endif
