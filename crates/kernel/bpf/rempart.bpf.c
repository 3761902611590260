// SPDX-License-Identifier: Apache-2.0
//
// Drops packets of banned sources in the driver, and counts what UDP floods are reflected from.
// `make bpf` builds the object beside this file; src/filter/xdp.rs loads it and fills its maps.
//
// What can't be read of a banned source's packet (a fragment's ports, a chain of headers without end) is
// dropped: it is the sender who made it unreadable. Everybody else's passes: the kernel judges it.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Apache-2.0";

#define MAX_TAGS 2      // 802.1Q in 802.1ad
#define MAX_HEADERS 8   // of IPv6, before the transport
#define MAX_NESTED 8    // bans that ended, around each other
#define MAX_REFLECTORS 32
#define NEVER 0

#define IPV4_MORE 0x2000
#define IPV4_OFFSET 0x1fff
#define IPV6_OFFSET 0xfff8
#define IPV6_MORE 0x0001

/* ---- what user space says and reads ---- */

struct ban {
    __u64 until;    // CLOCK_MONOTONIC; NEVER ends
    __u64 hits;
    __u64 length;   // of the prefix
};

struct lpm_v4 {
    __u32 length;
    __be32 address;
};

struct lpm_v6 {
    __u32 length;
    __u8 address[16];
};

struct settings {
    __u32 exact_v4, exact_v6, wide_v4, wide_v6;   // whether the map holds anything
    __u32 every_port;                             // bans are for all that a source sends
};

struct totals {
    __u64 packets, bytes;
};

struct reflector {
    __u64 packets, bytes, dropped;
};

// A byte a port: whether bans cover it as a destination, and its number as a source of reflections.
#define COVERED 0x80
#define REFLECTOR 0x1f

struct ports {
    __u8 what[65536];
};

#define MAP(NAME, TYPE, SIZE, KEY, VALUE, FLAGS)  \
    struct {                                      \
        __uint(type, TYPE);                       \
        __uint(max_entries, SIZE);                \
        __uint(map_flags, FLAGS);                 \
        __type(key, KEY);                         \
        __type(value, VALUE);                     \
    } NAME SEC(".maps")

// Sizes of the first six are set at load. A full one refuses; none evicts.
MAP(exact_v4, BPF_MAP_TYPE_HASH, 1, __be32, struct ban, BPF_F_NO_PREALLOC);
MAP(exact_v6, BPF_MAP_TYPE_HASH, 1, __u64, struct ban, BPF_F_NO_PREALLOC);   // a /64's half
MAP(wide_v4, BPF_MAP_TYPE_LPM_TRIE, 1, struct lpm_v4, struct ban, BPF_F_NO_PREALLOC);
MAP(wide_v6, BPF_MAP_TYPE_LPM_TRIE, 1, struct lpm_v6, struct ban, BPF_F_NO_PREALLOC);
MAP(protected_v4, BPF_MAP_TYPE_LPM_TRIE, 1, struct lpm_v4, __u32, BPF_F_NO_PREALLOC);
MAP(protected_v6, BPF_MAP_TYPE_LPM_TRIE, 1, struct lpm_v6, __u32, BPF_F_NO_PREALLOC);
MAP(settings, BPF_MAP_TYPE_ARRAY, 1, __u32, struct settings, 0);
MAP(port_table, BPF_MAP_TYPE_ARRAY, 1, __u32, struct ports, 0);
MAP(totals, BPF_MAP_TYPE_PERCPU_ARRAY, 1, __u32, struct totals, 0);
// The first is for fragments, which name no port.
MAP(reflectors, BPF_MAP_TYPE_PERCPU_ARRAY, MAX_REFLECTORS, __u32, struct reflector, 0);
MAP(reflector_drops, BPF_MAP_TYPE_ARRAY, MAX_REFLECTORS, __u32, __u32, 0);

/* ---- where the transport begins ---- */

enum transport_state {
    PORTS,      // TCP or UDP, and its ports were read
    OTHER,      // another protocol
    FRAGMENT,   // TCP or UDP, of which this is a later part
    UNREADABLE,
};

struct transport {
    enum transport_state state;
    __u8 protocol;
    __be16 source, destination;
};

static __always_inline void read_ports(struct transport *to, void *at, void *end)
{
    __be16 *ports = at;
    if (to->protocol != IPPROTO_TCP && to->protocol != IPPROTO_UDP) {
        to->state = OTHER;
        return;
    }
    if ((void *)(ports + 2) > end) {
        to->state = UNREADABLE;
        return;
    }
    to->state = PORTS;
    to->source = ports[0];
    to->destination = ports[1];
}

static __always_inline void transport_v4(struct transport *to, struct iphdr *ip, void *end)
{
    to->protocol = ip->protocol;
    if (bpf_ntohs(ip->frag_off) & IPV4_OFFSET) {
        __u8 ours = ip->protocol == IPPROTO_TCP || ip->protocol == IPPROTO_UDP;
        to->state = ours ? FRAGMENT : OTHER;
        return;
    }
    read_ports(to, (void *)ip + ip->ihl * 4, end);
}

static __always_inline void transport_v6(struct transport *to, struct ipv6hdr *ip, void *end)
{
    void *at = ip + 1;
    to->protocol = ip->nexthdr;
    for (int i = 0; i < MAX_HEADERS; i++) {
        // Each has the next one's number, its own length, and two bytes that mean something here.
        struct {
            __u8 next, length;
            __be16 offset;
        } *header = at;
        __u32 bytes;
        switch (to->protocol) {
        case IPPROTO_HOPOPTS:
        case IPPROTO_ROUTING:
        case IPPROTO_DSTOPTS:
        case IPPROTO_MH:
        case IPPROTO_FRAGMENT:
        case IPPROTO_AH:
            break;
        default:
            read_ports(to, at, end);
            return;
        }
        if ((void *)(header + 1) > end)
            break;
        if (to->protocol == IPPROTO_FRAGMENT) {
            if (bpf_ntohs(header->offset) & IPV6_OFFSET) {
                to->protocol = header->next;
                to->state = header->next == IPPROTO_ICMPV6 ? OTHER : FRAGMENT;
                return;
            }
            bytes = 8;
        } else if (to->protocol == IPPROTO_AH) {
            bytes = (header->length + 2) * 4;
        } else {
            bytes = (header->length + 1) * 8;
        }
        to->protocol = header->next;
        at += bytes;
    }
    to->state = UNREADABLE;
}

/* ---- bans ---- */

static __always_inline int holds(struct ban *ban)
{
    return ban->until == NEVER || bpf_ktime_get_ns() < ban->until;
}

// The narrowest that has not ended: user space takes those that have away within a second or so.
#define NARROWEST(MAP, KEY)                                    \
    for (int i = 0; i < MAX_NESTED; i++) {                     \
        struct ban *found = bpf_map_lookup_elem(MAP, KEY);     \
        if (!found)                                            \
            break;                                             \
        if (holds(found))                                      \
            return found;                                      \
        if (found->length == 0)                                \
            break;                                             \
        (KEY)->length = found->length - 1;                     \
    }

static __always_inline struct ban *ban_v4(struct settings *set, __be32 source)
{
    if (set->exact_v4) {
        struct ban *ban = bpf_map_lookup_elem(&exact_v4, &source);
        if (ban && holds(ban))
            return ban;
    }
    if (set->wide_v4) {
        struct lpm_v4 key = { .length = 32, .address = source };
        NARROWEST(&wide_v4, &key)
    }
    return 0;
}

static __always_inline struct ban *ban_v6(struct settings *set, struct in6_addr *source)
{
    if (set->exact_v6) {
        __u64 half;
        __builtin_memcpy(&half, source, sizeof half);
        struct ban *ban = bpf_map_lookup_elem(&exact_v6, &half);
        if (ban && holds(ban))
            return ban;
    }
    if (set->wide_v6) {
        struct lpm_v6 key = { .length = 128 };
        __builtin_memcpy(key.address, source, sizeof key.address);
        NARROWEST(&wide_v6, &key)
    }
    return 0;
}

static __always_inline int protected_v4_holds(__be32 source)
{
    struct lpm_v4 key = { .length = 32, .address = source };
    return bpf_map_lookup_elem(&protected_v4, &key) != 0;
}

static __always_inline int protected_v6_holds(struct in6_addr *source)
{
    struct lpm_v6 key = { .length = 128 };
    __builtin_memcpy(key.address, source, sizeof key.address);
    return bpf_map_lookup_elem(&protected_v6, &key) != 0;
}

static __always_inline int covers(struct settings *set, struct ports *ports, struct transport *to)
{
    if (set->every_port)
        return 1;
    switch (to->state) {
    case PORTS:
        return ports->what[bpf_ntohs(to->destination)] & COVERED;
    case OTHER:
        return 0;
    default:
        return 1;
    }
}

static __always_inline int drop(struct xdp_md *ctx, struct ban *ban)
{
    __u32 only = 0;
    struct totals *sum = bpf_map_lookup_elem(&totals, &only);
    if (sum) {
        sum->packets++;
        sum->bytes += bpf_xdp_get_buff_len(ctx);
    }
    __sync_fetch_and_add(&ban->hits, 1);
    return XDP_DROP;
}

/* ---- reflected floods ---- */

// What came from a port that floods are reflected from; null for everything else.
static __always_inline struct reflector *count(struct xdp_md *ctx, struct ports *ports,
                                               struct transport *to, __u32 *number)
{
    if (to->protocol != IPPROTO_UDP)
        return 0;
    if (to->state == PORTS)
        *number = ports->what[bpf_ntohs(to->source)] & REFLECTOR;
    else if (to->state == FRAGMENT)
        *number = 0;
    else
        return 0;
    if (to->state == PORTS && *number == 0)
        return 0;
    struct reflector *from = bpf_map_lookup_elem(&reflectors, number);
    if (from) {
        from->packets++;
        from->bytes += bpf_xdp_get_buff_len(ctx);
    }
    return from;
}

static __always_inline int drops(__u32 *number)
{
    __u32 *flag = bpf_map_lookup_elem(&reflector_drops, number);
    return flag && *flag;
}

// Whether a socket here is connected to just that peer, and so asked for it.
static __always_inline int asked_v4(struct xdp_md *ctx, struct iphdr *ip, struct transport *to)
{
    struct bpf_sock_tuple tuple = {
        .ipv4 = { ip->saddr, ip->daddr, to->source, to->destination },
    };
    if (to->state != PORTS)
        return 0;
    struct bpf_sock *sock =
        bpf_sk_lookup_udp(ctx, &tuple, sizeof tuple.ipv4, BPF_F_CURRENT_NETNS, 0);
    if (!sock)
        return 0;
    int asked = sock->dst_ip4 == tuple.ipv4.saddr && sock->dst_port == to->source;
    bpf_sk_release(sock);
    return asked;
}

static __always_inline int asked_v6(struct xdp_md *ctx, struct ipv6hdr *ip, struct transport *to)
{
    struct bpf_sock_tuple tuple = {
        .ipv6 = { .sport = to->source, .dport = to->destination },
    };
    if (to->state != PORTS)
        return 0;
    __builtin_memcpy(tuple.ipv6.saddr, &ip->saddr, sizeof tuple.ipv6.saddr);
    __builtin_memcpy(tuple.ipv6.daddr, &ip->daddr, sizeof tuple.ipv6.daddr);
    struct bpf_sock *sock =
        bpf_sk_lookup_udp(ctx, &tuple, sizeof tuple.ipv6, BPF_F_CURRENT_NETNS, 0);
    if (!sock)
        return 0;
    int asked = sock->dst_ip6[0] == tuple.ipv6.saddr[0] && sock->dst_ip6[1] == tuple.ipv6.saddr[1] &&
                sock->dst_ip6[2] == tuple.ipv6.saddr[2] && sock->dst_ip6[3] == tuple.ipv6.saddr[3] &&
                sock->dst_port == to->source;
    bpf_sk_release(sock);
    return asked;
}

/* ---- the way of a packet ---- */

static __always_inline int ipv4(struct xdp_md *ctx, struct settings *set, struct ports *ports,
                                struct iphdr *ip, void *end)
{
    struct transport to = {};
    __u32 number = 0;
    if ((void *)(ip + 1) > end)
        return XDP_PASS;
    struct ban *ban = ban_v4(set, ip->saddr);
    if (!ban && ip->protocol != IPPROTO_UDP)
        return XDP_PASS;
    transport_v4(&to, ip, end);
    if (ban && covers(set, ports, &to) && !protected_v4_holds(ip->saddr))
        return drop(ctx, ban);
    struct reflector *from = count(ctx, ports, &to, &number);
    if (from && drops(&number) && !protected_v4_holds(ip->saddr) && !asked_v4(ctx, ip, &to)) {
        from->dropped++;
        return XDP_DROP;
    }
    return XDP_PASS;
}

static __always_inline int ipv6(struct xdp_md *ctx, struct settings *set, struct ports *ports,
                                struct ipv6hdr *ip, void *end)
{
    struct transport to = {};
    __u32 number = 0;
    if ((void *)(ip + 1) > end)
        return XDP_PASS;
    struct ban *ban = ban_v6(set, &ip->saddr);
    if (!ban && ip->nexthdr == IPPROTO_TCP)
        return XDP_PASS;
    transport_v6(&to, ip, end);
    if (ban && covers(set, ports, &to) && !protected_v6_holds(&ip->saddr))
        return drop(ctx, ban);
    struct reflector *from = count(ctx, ports, &to, &number);
    if (from && drops(&number) && !protected_v6_holds(&ip->saddr) && !asked_v6(ctx, ip, &to)) {
        from->dropped++;
        return XDP_DROP;
    }
    return XDP_PASS;
}

SEC("xdp.frags")
int rempart(struct xdp_md *ctx)
{
    void *at = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    struct ethhdr *ethernet = at;
    __u32 only = 0;
    if ((void *)(ethernet + 1) > end)
        return XDP_PASS;
    __be16 type = ethernet->h_proto;
    at = ethernet + 1;
    for (int i = 0; i < MAX_TAGS; i++) {
        struct {
            __be16 tag, type;
        } *vlan = at;
        if (type != bpf_htons(ETH_P_8021Q) && type != bpf_htons(ETH_P_8021AD))
            break;
        if ((void *)(vlan + 1) > end)
            return XDP_PASS;
        type = vlan->type;
        at = vlan + 1;
    }
    struct settings *set = bpf_map_lookup_elem(&settings, &only);
    struct ports *ports = bpf_map_lookup_elem(&port_table, &only);
    if (!set || !ports)
        return XDP_PASS;
    if (type == bpf_htons(ETH_P_IP))
        return ipv4(ctx, set, ports, at, end);
    if (type == bpf_htons(ETH_P_IPV6))
        return ipv6(ctx, set, ports, at, end);
    return XDP_PASS;
}
