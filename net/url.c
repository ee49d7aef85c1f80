#include "net/url.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <net/if.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define DIGITS  "0123456789"
#define EXAMPLE "write tcp://127.0.0.1:7777"

__attribute__((format(printf, 2, 3))) static int refuse(char why[URL_WHY_BYTES], const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, URL_WHY_BYTES, format, arguments);
    va_end(arguments);
    return -EINVAL;
}

/* Move *text behind "tcp://". */
static int parse_scheme(const char **text, char why[URL_WHY_BYTES])
{
    static const char *const planned[] = { "unix", "udp", "tls", "fd" };
    size_t size = strspn(*text, LETTERS DIGITS "+-.");
    const char *scheme = *text;

    if (size == 0 || strncmp(scheme + size, "://", 3) != 0)
        return refuse(why, "there is no scheme before the host: " EXAMPLE);
    *text += size + strlen("://");
    if (size == 3 && strncmp(scheme, "tcp", size) == 0)
        return 0;
    for (size_t i = 0; i < sizeof planned / sizeof planned[0]; i++) {
        if (size == strlen(planned[i]) && strncmp(scheme, planned[i], size) == 0)
            return refuse(why, "'%s' is not in this version of rondo: tcp only", planned[i]);
    }
    return refuse(why, "there is no scheme '%.*s': " EXAMPLE, (int)(size < 32 ? size : 32), scheme);
}

static int copy_host(struct url *url, const char *host, size_t size, char why[URL_WHY_BYTES])
{
    if (size == 0)
        return refuse(why, "there is no host: for all addresses of this machine write 0.0.0.0 or [::]");
    if (size >= URL_HOST_BYTES)
        return refuse(why, "the host is longer than %d bytes", URL_HOST_BYTES - 1);
    memcpy(url->host, host, size);
    url->host[size] = '\0';
    return 0;
}

/* Nothing but what names are made of: the host is shown in the log, where control characters do harm. */
static int check_characters(const char *text, const char *what, char why[URL_WHY_BYTES])
{
    const char *wrong = text + strspn(text, LETTERS DIGITS "-._");
    if (*wrong == '\0')
        return 0;
    if (*wrong >= ' ' && *wrong <= '~')
        return refuse(why, "'%c' can't be in %s: letters, digits, '-', '.' and '_' can", *wrong, what);
    return refuse(why, "byte 0x%02x can't be in %s: letters, digits, '-', '.' and '_' can",
                  (unsigned)(unsigned char)*wrong, what);
}

/* What was between brackets: an IPv6 address, with or without %interface. */
static int check_ipv6(const char *host, char why[URL_WHY_BYTES])
{
    char address[INET6_ADDRSTRLEN];
    struct in6_addr parsed;
    size_t size = strcspn(host, "%");

    snprintf(address, sizeof address, "%.*s", (int)size, host);
    if (size >= sizeof address || inet_pton(AF_INET6, address, &parsed) != 1)
        return refuse(why, "there is no IPv6 address in the brackets");
    if (host[size] == '\0')
        return 0;
    const char *interface = host + size + 1;
    if (*interface == '\0')
        return refuse(why, "there is no interface after the '%%'");
    if (strlen(interface) >= IF_NAMESIZE)
        return refuse(why, "the interface after the '%%' is longer than %d bytes", IF_NAMESIZE - 1);
    return check_characters(interface, "an interface", why);
}

/* A name, or an IPv4 address. getaddrinfo takes 127.1, 1 and 0x7f.1 for addresses, too, and asks name servers
 * for 256.0.0.1: whoever writes such a thing meant another, so it must be four decimal numbers. */
static int check_name(const char *host, char why[URL_WHY_BYTES])
{
    struct in_addr parsed;
    int error = check_characters(host, "a host", why);
    if (error != 0)
        return error;
    bool numeric = host[strspn(host, DIGITS ".")] == '\0' || inet_aton(host, &parsed) != 0;
    if (numeric && inet_pton(AF_INET, host, &parsed) != 1)
        return refuse(why, "that is no IPv4 address: it is four numbers from 0 to 255, as in 127.0.0.1");
    return 0;
}

/* Move *text behind "[IPv6]". */
static int parse_bracketed_host(const char **text, struct url *url, char why[URL_WHY_BYTES])
{
    const char *host = *text + 1;
    size_t size = strcspn(host, "]/?#");
    if (host[size] != ']')
        return refuse(why, "the bracket before the IPv6 address is not closed: write tcp://[::1]:7777");
    *text = host + size + 1;
    if (strchr(":/?#", **text) == NULL) /* its end is found, too */
        return refuse(why, "the bracket is followed by ':' and the port: write tcp://[::1]:7777");
    int error = copy_host(url, host, size, why);
    return error != 0 ? error : check_ipv6(url->host, why);
}

/* Move *text behind the host. */
static int parse_host(const char **text, struct url *url, char why[URL_WHY_BYTES])
{
    if (**text == '[')
        return parse_bracketed_host(text, url, why);

    const char *host = *text;
    size_t size = strcspn(host, ":/?#");
    if (host[size] == ':' && host[size + 1 + strcspn(host + size + 1, ":/?#")] == ':')
        return refuse(why, "a host with a ':' is an IPv6 address, in brackets: write tcp://[::1]:7777");
    *text = host + size;
    int error = copy_host(url, host, size, why);
    return error != 0 ? error : check_name(url->host, why);
}

/* Move *text behind ":port". */
static int parse_port(const char **text, struct url *url, char why[URL_WHY_BYTES])
{
    const char *digits = *text + (**text == ':');
    size_t size = strcspn(digits, "/?#");
    if (**text != ':' || size == 0)
        return refuse(why, "there is no port after the host: " EXAMPLE);
    if (strspn(digits, DIGITS) != size)
        return refuse(why, "the port is not a decimal number");

    unsigned port = 0;
    for (size_t i = 0; i < size; i++) {
        port = port * 10 + (unsigned)(digits[i] - '0');
        if (port > UINT16_MAX)
            return refuse(why, "the port is not from 0 to %d", UINT16_MAX);
    }
    url->port = (uint16_t)port;
    *text = digits + size;
    return 0;
}

/* What may follow: nothing, up to now. */
static int parse_options(const char *text, char why[URL_WHY_BYTES])
{
    if (*text == '\0')
        return 0;
    size_t size = *text == '?' ? strspn(text + 1, LETTERS DIGITS "-._") : 0;
    if (size > 0)
        return refuse(why, "there is no option '%.*s': tcp has none", (int)(size < 32 ? size : 32), text + 1);
    return refuse(why, "nothing may follow the port");
}

int url_parse(const char *text, struct url *url, char why[URL_WHY_BYTES])
{
    int error = parse_scheme(&text, why);
    if (error == 0)
        error = parse_host(&text, url, why);
    if (error == 0)
        error = parse_port(&text, url, why);
    return error != 0 ? error : parse_options(text, why);
}

/* The caller shall tell a host that there isn't from one that can't be found just now. */
static int errno_of_gai(int error)
{
    switch (error) {
    case EAI_NONAME:
    case EAI_NODATA:
    case EAI_ADDRFAMILY:
        return -ENOENT;
    case EAI_AGAIN:
        return -EAGAIN;
    case EAI_MEMORY:
        return -ENOMEM;
    case EAI_SYSTEM:
        return errno > 0 ? -errno : -EHOSTUNREACH;
    default:
        return -EHOSTUNREACH;
    }
}

int url_look_up(const struct url *url, int flags, struct url_addresses *addresses, char why[URL_WHY_BYTES])
{
    const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV };
    struct addrinfo *found = NULL;
    char port[sizeof "65535"];

    snprintf(port, sizeof port, "%u", url->port);
    int gai_error = getaddrinfo(url->host, port, &hints, &found);
    if (gai_error != 0) {
        int error = errno_of_gai(gai_error);
        refuse(why, "can't resolve %s: %s", url->host,
               gai_error == EAI_SYSTEM ? strerror(-error) : gai_strerror(gai_error));
        return error;
    }

    int error = 0;
    addresses->count = 0;
    for (const struct addrinfo *info = found; info != NULL && error == 0; info = info->ai_next)
        error = url_addresses_add(addresses, info->ai_addr);
    freeaddrinfo(found);
    if (error != 0)
        refuse(why, "%s has more than %d addresses: write those that you mean", url->host, URL_ADDRESSES_MAX);
    return error;
}

int url_resolve(const struct url *url, struct url_addresses *addresses, char why[URL_WHY_BYTES])
{
    return url_look_up(url, AI_PASSIVE, addresses, why);
}

static socklen_t size_of(const struct sockaddr *address)
{
    assert(address->sa_family == AF_INET || address->sa_family == AF_INET6);
    return address->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

/* By what bind(2) looks at: not the padding, nor the flow. */
static bool are_equal(const struct url_address *one, const struct url_address *other)
{
    if (one->any.sa_family != other->any.sa_family)
        return false;
    if (one->any.sa_family == AF_INET)
        return one->v4.sin_port == other->v4.sin_port && one->v4.sin_addr.s_addr == other->v4.sin_addr.s_addr;
    return one->v6.sin6_port == other->v6.sin6_port && one->v6.sin6_scope_id == other->v6.sin6_scope_id &&
           IN6_ARE_ADDR_EQUAL(&one->v6.sin6_addr, &other->v6.sin6_addr);
}

int url_addresses_add(struct url_addresses *addresses, const struct sockaddr *address)
{
    struct url_address added = { .size = size_of(address) };
    memcpy(&added.any, address, added.size);

    for (unsigned i = 0; i < addresses->count; i++) {
        if (are_equal(&addresses->at[i], &added))
            return 0;
    }
    if (addresses->count == URL_ADDRESSES_MAX)
        return -E2BIG;
    addresses->at[addresses->count++] = added;
    return 0;
}

void url_format(const struct sockaddr *address, char text[URL_TEXT_BYTES])
{
    struct url_address from = { .size = size_of(address) };
    char host[INET6_ADDRSTRLEN], interface[IF_NAMESIZE + 1] = "";
    memcpy(&from.any, address, from.size);

    if (from.any.sa_family == AF_INET) {
        inet_ntop(AF_INET, &from.v4.sin_addr, host, sizeof host);
        snprintf(text, URL_TEXT_BYTES, "tcp://%s:%u", host, ntohs(from.v4.sin_port));
        return;
    }
    uint32_t index = from.v6.sin6_scope_id;
    if (index != 0) {
        interface[0] = '%';
        if (if_indextoname(index, interface + 1) == NULL) /* gone meanwhile: its number is left */
            snprintf(interface + 1, sizeof interface - 1, "%u", index);
    }
    inet_ntop(AF_INET6, &from.v6.sin6_addr, host, sizeof host);
    snprintf(text, URL_TEXT_BYTES, "tcp://[%s%s]:%u", host, interface, ntohs(from.v6.sin6_port));
}
