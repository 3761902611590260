//! Packets that are made to be misread, shown to the XDP program: tags, options, extension headers,
//! fragments; and floods that are reflected.

use crate::{
    Story,
    field::{Field, INTERFACE},
};
use rempart_kernel::filter::{Ban, Filter, Ports, xdp::Xdp};
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};

const BANNED_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const BANNED_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 7);
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const MORE: u16 = 0x2000;

pub fn stories() -> Vec<Story> {
    vec![
        story("tags_do_not_hide_a_source", || {
            on_xdp(tags_do_not_hide_a_source)
        }),
        story("fragments_do_not_hide_a_port", || {
            on_xdp(fragments_do_not_hide_a_port)
        }),
        story("extension_headers_do_not_hide_a_port", || {
            on_xdp(extension_headers_do_not_hide_a_port)
        }),
        story("other_protocols_pass", || on_xdp(other_protocols_pass)),
        story("what_is_cut_short_is_nobodys_fault", || {
            on_xdp(what_is_cut_short_is_nobodys_fault)
        }),
        story("reflections_are_counted_and_dropped", || {
            on_xdp(reflections_are_counted_and_dropped)
        }),
    ]
}

fn story(name: &str, run: fn() -> Result<(), libtest_mimic::Failed>) -> Story {
    (format!("packets::{name}"), run)
}

fn on_xdp(act: fn(&mut Xdp)) -> Result<(), libtest_mimic::Failed> {
    let _field = Field::new();
    let mut xdp = Xdp::attach(&[INTERFACE.into()], &Ports::Only(vec![443]), 100)?;
    let bans = ["192.0.2.7/32", "2001:db8:7::/64"];
    let bans = bans.map(|network| Ban {
        network: network.parse().unwrap(),
        until: None,
    });
    xdp.ban(&bans)?;
    act(&mut xdp);
    Ok(())
}

fn passes(xdp: &mut Xdp, packet: &[u8]) -> bool {
    xdp.show(packet, 1).unwrap().0
}

fn ethernet(kind: u16, tags: &[u16], inside: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend([0, 7]);
    }
    frame.extend(kind.to_be_bytes());
    frame.extend(inside);
    frame
}

fn ipv4(source: Ipv4Addr, protocol: u8, fragment: u16, options: usize, inside: &[u8]) -> Vec<u8> {
    let head = 20 + options * 4;
    let mut packet = vec![0x40 | u8::try_from(head / 4).unwrap(), 0];
    packet.extend(u16::try_from(head + inside.len()).unwrap().to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend([198, 18, 0, 1]);
    packet.resize(head, 1);
    packet.extend(inside);
    packet
}

fn ipv6(source: Ipv6Addr, next: u8, inside: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(inside.len()).unwrap().to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(source.octets());
    packet.extend("fd00::1".parse::<Ipv6Addr>().unwrap().octets());
    packet.extend(inside);
    packet
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    let mut head = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    head.resize(400, 0);
    head
}

fn frame_v4(fragment: u16, options: usize, protocol: u8, inside: &[u8]) -> Vec<u8> {
    ethernet(
        0x0800,
        &[],
        &ipv4(BANNED_V4, protocol, fragment, options, inside),
    )
}

fn frame_v6(next: u8, inside: &[u8]) -> Vec<u8> {
    ethernet(0x86dd, &[], &ipv6(BANNED_V6, next, inside))
}

fn tags_do_not_hide_a_source(xdp: &mut Xdp) {
    for tags in [&[][..], &[0x8100], &[0x88a8, 0x8100]] {
        for (port, passed) in [(443, false), (22, true)] {
            let inside = ipv4(BANNED_V4, TCP, 0, 0, &ports(5555, port));
            assert_eq!(
                passes(xdp, &ethernet(0x0800, tags, &inside)),
                passed,
                "{tags:x?} {port}"
            );
            let inside = ipv6(BANNED_V6, TCP, &ports(5555, port));
            assert_eq!(
                passes(xdp, &ethernet(0x86dd, tags, &inside)),
                passed,
                "{tags:x?} {port}"
            );
        }
        let inside = ipv4(Ipv4Addr::new(192, 0, 2, 8), TCP, 0, 0, &ports(5555, 443));
        assert!(passes(xdp, &ethernet(0x0800, tags, &inside)));
    }
}

fn fragments_do_not_hide_a_port(xdp: &mut Xdp) {
    let (covered, uncovered) = (ports(5555, 443), ports(5555, 22));
    for options in [0, 1, 10] {
        assert!(!passes(xdp, &frame_v4(0, options, TCP, &covered)));
        assert!(passes(xdp, &frame_v4(0, options, TCP, &uncovered)));
    }
    // The first part tells its ports; later ones can't, nor can one that is cut before them.
    assert!(!passes(xdp, &frame_v4(MORE, 0, UDP, &covered)));
    assert!(passes(xdp, &frame_v4(MORE, 0, UDP, &uncovered)));
    assert!(!passes(xdp, &frame_v4(MORE | 1, 0, UDP, &uncovered)));
    assert!(!passes(xdp, &frame_v4(50, 0, TCP, &uncovered)));
    assert!(!passes(xdp, &frame_v4(MORE, 0, TCP, &[0; 2])));
    // Of others all pass.
    let others = ipv4(Ipv4Addr::new(192, 0, 2, 8), UDP, 50, 0, &uncovered);
    assert!(passes(xdp, &ethernet(0x0800, &[], &others)));
}

/// An extension header of eight bytes.
fn extension(next: u8, inside: &[u8]) -> Vec<u8> {
    [&[next, 0, 0, 0, 0, 0, 0, 0], inside].concat()
}

fn fragment(next: u8, offset: u16, inside: &[u8]) -> Vec<u8> {
    let [high, low] = offset.to_be_bytes();
    [&[next, 0, high, low, 0, 0, 0, 1], inside].concat()
}

fn extension_headers_do_not_hide_a_port(xdp: &mut Xdp) {
    for (port, passed) in [(443, false), (22, true)] {
        let inside = ports(5555, port);
        // Hop-by-hop, routing, destination options, mobility.
        let chain = extension(43, &extension(60, &extension(TCP, &inside)));
        assert_eq!(passes(xdp, &frame_v6(0, &chain)), passed, "{port}");
        // Authentication counts in words of four bytes.
        let chain = [&[TCP, 4][..], &[0; 22], &inside].concat();
        assert_eq!(passes(xdp, &frame_v6(51, &chain)), passed, "{port}");
        // A long one.
        let chain = [&[UDP, 3][..], &[0; 30], &inside].concat();
        assert_eq!(passes(xdp, &frame_v6(60, &chain)), passed, "{port}");
        // The first part of a datagram, and one that is a datagram by itself.
        assert_eq!(
            passes(xdp, &frame_v6(44, &fragment(UDP, 1, &inside))),
            passed,
            "{port}"
        );
        assert_eq!(
            passes(xdp, &frame_v6(44, &fragment(UDP, 0, &inside))),
            passed,
            "{port}"
        );
    }
    let uncovered = ports(5555, 22);
    // Later parts, whose next header may be one of those too.
    assert!(!passes(
        xdp,
        &frame_v6(44, &fragment(UDP, 8 << 3, &uncovered))
    ));
    assert!(!passes(
        xdp,
        &frame_v6(44, &fragment(60, 8 << 3, &uncovered))
    ));
    // More headers than anybody needs, and a chain that ends in nothing.
    let mut chain = uncovered;
    for _ in 0..9 {
        chain = extension(60, &chain);
    }
    assert!(!passes(xdp, &frame_v6(60, &chain)));
    assert!(!passes(xdp, &frame_v6(60, &[60])));
    let others = ipv6("2001:db8:8::1".parse().unwrap(), 60, &chain);
    assert!(passes(xdp, &ethernet(0x86dd, &[], &others)));
}

fn other_protocols_pass(xdp: &mut Xdp) {
    assert!(passes(xdp, &frame_v4(0, 0, ICMP, &[0; 64])));
    assert!(passes(xdp, &frame_v4(50, 0, ICMP, &[0; 64])));
    assert!(passes(xdp, &frame_v6(58, &[0; 64])));
    assert!(passes(xdp, &ethernet(0x0806, &[], &[0; 64])));
}

fn what_is_cut_short_is_nobodys_fault(xdp: &mut Xdp) {
    let whole = frame_v4(0, 0, TCP, &ports(5555, 443));
    for length in 14..34 {
        assert!(passes(xdp, &whole[..length]), "{length}");
    }
    for length in 34..38 {
        assert!(!passes(xdp, &whole[..length]), "{length}");
    }
    let whole = frame_v6(TCP, &ports(5555, 443));
    for length in 14..54 {
        assert!(passes(xdp, &whole[..length]), "{length}");
    }
}

fn reflections_are_counted_and_dropped(xdp: &mut Xdp) {
    let from = |source: Ipv4Addr, port, to| {
        ethernet(0x0800, &[], &ipv4(source, UDP, 0, 0, &ports(port, to)))
    };
    let stranger = Ipv4Addr::new(203, 0, 113, 9);
    let later = ethernet(0x0800, &[], &ipv4(stranger, UDP, 100, 0, &[0; 400]));
    let counted = |xdp: &mut Xdp, port| {
        let found = xdp
            .reflectors()
            .unwrap()
            .into_iter()
            .find(|one| one.port == port)
            .unwrap();
        (found.packets, found.dropped)
    };
    assert!(passes(xdp, &from(stranger, 53, 40_000)));
    assert!(passes(xdp, &from(stranger, 54, 40_000)));
    assert!(passes(xdp, &later));
    assert_eq!(counted(xdp, 53), (1, 0));
    assert_eq!(counted(xdp, 0), (1, 0));
    xdp.drop_reflected(&[53, 0]).unwrap();
    assert!(!passes(xdp, &from(stranger, 53, 40_000)));
    assert!(!passes(xdp, &later));
    assert!(passes(xdp, &from(stranger, 123, 40_000)));
    assert_eq!(counted(xdp, 53), (2, 1));
    assert_eq!(counted(xdp, 0), (2, 1));
    // What we asked for over a connected socket, and whom we protect.
    let socket = UdpSocket::bind("198.18.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    assert!(!passes(xdp, &from(stranger, 53, port)));
    socket.connect((stranger, 53)).unwrap();
    assert!(passes(xdp, &from(stranger, 53, port)));
    assert!(!passes(
        xdp,
        &from(Ipv4Addr::new(203, 0, 113, 10), 53, port)
    ));
    xdp.protect(&["203.0.113.10/32".parse().unwrap()]).unwrap();
    assert!(passes(
        xdp,
        &from(Ipv4Addr::new(203, 0, 113, 10), 53, 40_000)
    ));
    xdp.drop_reflected(&[]).unwrap();
    assert!(passes(xdp, &from(stranger, 53, 40_000)));
}
