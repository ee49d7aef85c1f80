#include "net/url.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <net/if.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define DIGITS  "0123456789"
#define EXAMPLE "write tcp://127.0.0.1:7777"

static const char *const schemes[] = {
    [URL_TCP] = "tcp", [URL_UDP] = "udp", [URL_UNIX] = "unix", [URL_UNIXGRAM] = "unixgram", [URL_FD] = "fd",
};

__attribute__((format(printf, 2, 3))) static int refuse(char why[URL_WHY_BYTES], const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, URL_WHY_BYTES, format, arguments);
    va_end(arguments);
    return -EINVAL;
}

/* Move *text behind "tcp://". */
static int parse_scheme(const char **text, struct url *url, char why[URL_WHY_BYTES])
{
    static const char *const planned[] = { "tls" };
    size_t size = strspn(*text, LETTERS DIGITS "+-.");
    const char *scheme = *text;

    if (size == 0 || strncmp(scheme + size, "://", 3) != 0)
        return refuse(why, "there is no scheme before the host: " EXAMPLE);
    *text += size + strlen("://");
    for (size_t i = 0; i < sizeof schemes / sizeof schemes[0]; i++) {
        if (size == strlen(schemes[i]) && strncmp(scheme, schemes[i], size) == 0) {
            url->scheme = (enum url_scheme)i;
            return 0;
        }
    }
    for (size_t i = 0; i < sizeof planned / sizeof planned[0]; i++) {
        if (size == strlen(planned[i]) && strncmp(scheme, planned[i], size) == 0)
            return refuse(why, "'%s' is not in this version of rondo: tcp, udp, unix, unixgram and fd are",
                          planned[i]);
    }
    return refuse(why, "there is no scheme '%.*s': " EXAMPLE, (int)(size < 32 ? size : 32), scheme);
}

/* ---- tcp and udp ------------------------------------------------------------------------------------------- */

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
        return refuse(why, "the bracket before the IPv6 address is not closed: write %s://[::1]:7777",
                      schemes[url->scheme]);
    *text = host + size + 1;
    if (strchr(":/?#", **text) == NULL) /* its end is found, too */
        return refuse(why, "the bracket is followed by ':' and the port: write %s://[::1]:7777",
                      schemes[url->scheme]);
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
        return refuse(why, "a host with a ':' is an IPv6 address, in brackets: write %s://[::1]:7777",
                      schemes[url->scheme]);
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
        return refuse(why, "there is no port after the host: write %s://127.0.0.1:7777",
                      schemes[url->scheme]);
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

/* What may follow. */
static int refuse_rest(const char *text, const char *what, const char *have, char why[URL_WHY_BYTES])
{
    bool is_option = *text == '?' || *text == '&';
    size_t size = is_option ? strspn(text + 1, LETTERS DIGITS "-._") : 0;
    if (size > 0)
        return refuse(why, "there is no option '%.*s': %s", (int)(size < 32 ? size : 32), text + 1, have);
    return refuse(why, "nothing may follow the %s", what);
}

static int parse_host_and_port(const char *text, struct url *url, char why[URL_WHY_BYTES])
{
    int error = parse_host(&text, url, why);
    if (error == 0)
        error = parse_port(&text, url, why);
    if (error != 0 || *text == '\0')
        return error;
    return refuse_rest(text, "port", url->scheme == URL_UDP ? "udp has none" : "tcp has none", why);
}

/* ---- unix ----------------------------------------------------------------------------------------------- */

#define UNIX_EXAMPLE "write unix:///run/name.sock or unix://@name"
#define PATH_AT      offsetof(struct sockaddr_un, sun_path)

static int digit_of(char c)
{
    const char *digits = "0123456789abcdef0123456789ABCDEF", *found = c == '\0' ? NULL : strchr(digits, c);
    return found == NULL ? -1 : (int)(found - digits) % 16;
}

/* Move *text behind one byte of a path. Returns the byte, or -EINVAL. */
static int parse_byte(const char **text, char why[URL_WHY_BYTES])
{
    unsigned char byte = (unsigned char)*(*text)++;
    if (byte < ' ' || byte == 0x7f)
        return refuse(why, "byte 0x%02x can't stand in a path as it is: write %%%02X", byte, byte);
    if (byte != '%')
        return byte;
    int high = digit_of(**text), low = high < 0 ? -1 : digit_of((*text)[1]);
    if (low < 0)
        return refuse(why, "a '%%' in a path is followed by two hexadecimal digits: %%25 is the '%%' itself");
    *text += 2;
    return high * 16 + low;
}

/* Move *text behind the path, or the name. */
static int parse_path(const char **text, struct url *url, char why[URL_WHY_BYTES])
{
    bool is_abstract = **text == '@';
    const char *what = is_abstract ? "name behind the '@'" : "path";
    char *path = url->local.local.sun_path + is_abstract;
    size_t size = 0;
    url->local.any.sa_family = AF_UNIX;
    if (!is_abstract && **text != '/' && strchr("?#", **text) == NULL)
        return refuse(why, "the path is not absolute: " UNIX_EXAMPLE);
    *text += is_abstract;
    while (strchr("?#", **text) == NULL) { /* its end is found, too */
        int byte = parse_byte(text, why);
        if (byte < 0)
            return byte;
        if (byte == 0 && !is_abstract)
            return refuse(why, "there can't be a NUL in a path");
        if (size == URL_PATH_BYTES)
            return refuse(why, "the %s is longer than %d bytes", what, URL_PATH_BYTES);
        path[size++] = (char)byte;
    }
    if (size == 0)
        return refuse(why, "there is no %s: " UNIX_EXAMPLE, what);
    url->local.size =
        (socklen_t)(PATH_AT + size + 1); /* the NUL of a path; the one before an abstract name */
    return 0;
}

/* Move *text behind "mode=0660". */
static int parse_mode(const char **text, struct url *url, char why[URL_WHY_BYTES])
{
    const char *digits = *text + strlen("mode=");
    size_t size = strcspn(digits, "&#");
    if (url->mode != URL_NO_MODE)
        return refuse(why, "the mode is there twice");
    if (url->local.local.sun_path[0] == '\0')
        return refuse(why, "an abstract name has no mode: whoever knows it may connect");
    if (size < 3 || size > 4 || strspn(digits, "01234567") != size || (size == 4 && *digits != '0'))
        return refuse(why,
                      "the mode is not three octal digits, with or without a 0 before them: write mode=0660");
    url->mode = (int)strtol(digits, NULL, 8);
    *text = digits + size;
    return 0;
}

static int parse_unix(const char *text, struct url *url, char why[URL_WHY_BYTES])
{
    int error = parse_path(&text, url, why);
    while (error == 0 && (*text == '?' || *text == '&') && strncmp(text + 1, "mode=", strlen("mode=")) == 0) {
        text++;
        error = parse_mode(&text, url, why);
    }
    if (error != 0 || *text == '\0')
        return error;
    return refuse_rest(text, url->mode == URL_NO_MODE ? "path" : "mode", "unix has mode", why);
}

/* ---- fd ------------------------------------------------------------------------------------------------- */

static int parse_fd(const char *text, struct url *url, char why[URL_WHY_BYTES])
{
    size_t size = strcspn(text, "/?#");
    if (size == 0 || size > 7 || strspn(text, DIGITS) != size)
        return refuse(why, "the descriptor is not a decimal number: write fd://3");
    url->fd = atoi(text);
    return text[size] == '\0' ? 0 : refuse_rest(text + size, "descriptor", "fd has none", why);
}

int url_parse(const char *text, struct url *url, char why[URL_WHY_BYTES])
{
    *url = (struct url){ .mode = URL_NO_MODE, .fd = -1 };
    int error = parse_scheme(&text, url, why);
    if (error != 0)
        return error;
    switch (url->scheme) {
    case URL_UNIX:
    case URL_UNIXGRAM:
        return parse_unix(text, url, why);
    case URL_FD:
        return parse_fd(text, url, why);
    case URL_TCP:
    case URL_UDP:
        break;
    }
    return parse_host_and_port(text, url, why);
}

bool url_is_of_datagrams(const struct url *url)
{
    return url->scheme == URL_UDP || url->scheme == URL_UNIXGRAM;
}

/* ---- addresses ------------------------------------------------------------------------------------------ */

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

    addresses->count = 0;
    if (url->scheme == URL_FD)
        return refuse(why, "a descriptor is no address: fd:// is for who listens");
    if (url->scheme == URL_UNIX || url->scheme == URL_UNIXGRAM)
        return url_addresses_put(addresses, &url->local);
    snprintf(port, sizeof port, "%u", url->port);
    int gai_error = getaddrinfo(url->host, port, &hints, &found);
    if (gai_error != 0) {
        int error = errno_of_gai(gai_error);
        refuse(why, "can't resolve %s: %s", url->host,
               gai_error == EAI_SYSTEM ? strerror(-error) : gai_strerror(gai_error));
        return error;
    }

    int error = 0;
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

/* What getaddrinfo and RFC 6761 say of it, without looking into files. */
static int resolve_localhost(uint16_t port, struct url_addresses *addresses)
{
    const struct sockaddr_in6 v6 = { .sin6_family = AF_INET6,
                                     .sin6_port = htons(port),
                                     .sin6_addr = IN6ADDR_LOOPBACK_INIT };
    const struct sockaddr_in v4 = { .sin_family = AF_INET,
                                    .sin_port = htons(port),
                                    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    addresses->count = 0;
    int error = url_addresses_add(addresses, (const struct sockaddr *)&v6);
    return error != 0 ? error : url_addresses_add(addresses, (const struct sockaddr *)&v4);
}

int url_resolve_now(const struct url *url, struct url_addresses *addresses, char why[URL_WHY_BYTES])
{
    if (strcasecmp(url->host, "localhost") == 0)
        return resolve_localhost(url->port, addresses);
    int error = url_look_up(url, AI_PASSIVE | AI_NUMERICHOST, addresses, why);
    if (error != -ENOENT || strchr(url->host, ':') != NULL)
        return error;
    return refuse(why, "%s is a name, and looking it up would hold up the shard: write its address",
                  url->host);
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
    if (one->any.sa_family == AF_UNIX)
        return one->size == other->size && memcmp(&one->any, &other->any, one->size) == 0;
    if (one->any.sa_family == AF_INET)
        return one->v4.sin_port == other->v4.sin_port && one->v4.sin_addr.s_addr == other->v4.sin_addr.s_addr;
    return one->v6.sin6_port == other->v6.sin6_port && one->v6.sin6_scope_id == other->v6.sin6_scope_id &&
           IN6_ARE_ADDR_EQUAL(&one->v6.sin6_addr, &other->v6.sin6_addr);
}

int url_addresses_put(struct url_addresses *addresses, const struct url_address *address)
{
    for (unsigned i = 0; i < addresses->count; i++) {
        if (are_equal(&addresses->at[i], address))
            return 0;
    }
    if (addresses->count == URL_ADDRESSES_MAX)
        return -E2BIG;
    addresses->at[addresses->count++] = *address;
    return 0;
}

int url_addresses_add(struct url_addresses *addresses, const struct sockaddr *address)
{
    struct url_address added = { .size = size_of(address) };
    memcpy(&added.any, address, added.size);
    return url_addresses_put(addresses, &added);
}

uint16_t *url_port_of(struct url_address *address)
{
    switch (address->any.sa_family) {
    case AF_INET:
        return &address->v4.sin_port;
    case AF_INET6:
        return &address->v6.sin6_port;
    default:
        return NULL;
    }
}

/* ---- back to text --------------------------------------------------------------------------------------- */

static void format_unix(const struct url_address *address, const char *scheme, char text[URL_TEXT_BYTES])
{
    const char *path = address->local.sun_path;
    size_t size = address->size > PATH_AT ? address->size - PATH_AT : 0;
    bool is_abstract = size > 0 && path[0] == '\0';
    size = is_abstract ? size - 1 : strnlen(path, size);
    path += is_abstract;
    char *end = stpcpy(stpcpy(text, scheme), is_abstract ? "://@" : "://");
    for (size_t i = 0; i < size; i++) {
        unsigned char byte = (unsigned char)path[i];
        bool is_plain = byte > ' ' && byte <= '~' && strchr("%?#", byte) == NULL;
        end += sprintf(end, is_plain ? "%c" : "%%%02X", byte);
    }
}

static void format_ipv6(const struct sockaddr_in6 *address, const char *scheme, char text[URL_TEXT_BYTES])
{
    char host[INET6_ADDRSTRLEN], interface[IF_NAMESIZE + 1] = "";
    uint32_t index = address->sin6_scope_id;
    if (index != 0) {
        interface[0] = '%';
        if (if_indextoname(index, interface + 1) == NULL) /* gone meanwhile: its number is left */
            snprintf(interface + 1, sizeof interface - 1, "%u", index);
    }
    inet_ntop(AF_INET6, &address->sin6_addr, host, sizeof host);
    snprintf(text, URL_TEXT_BYTES, "%s://[%s%s]:%u", scheme, host, interface, ntohs(address->sin6_port));
}

static void format(const struct url_address *address, enum url_scheme internet, enum url_scheme local,
                   char text[URL_TEXT_BYTES])
{
    char host[INET_ADDRSTRLEN];
    switch (address->any.sa_family) {
    case AF_UNIX:
        format_unix(address, schemes[local], text);
        return;
    case AF_INET6:
        format_ipv6(&address->v6, schemes[internet], text);
        return;
    default:
        inet_ntop(AF_INET, &address->v4.sin_addr, host, sizeof host);
        snprintf(text, URL_TEXT_BYTES, "%s://%s:%u", schemes[internet], host, ntohs(address->v4.sin_port));
        return;
    }
}

void url_format_address(const struct url_address *address, char text[URL_TEXT_BYTES])
{
    format(address, URL_TCP, URL_UNIX, text);
}

void url_format_datagrams(const struct url_address *address, char text[URL_TEXT_BYTES])
{
    format(address, URL_UDP, URL_UNIXGRAM, text);
}

void url_format(const struct sockaddr *address, char text[URL_TEXT_BYTES])
{
    struct url_address from = { .size = size_of(address) };
    memcpy(&from.any, address, from.size);
    url_format_address(&from, text);
}
