//! Records of members of replicated groups: configurations, with and without their slot, and the
//! payload of MEMBER_CREATE. Input: any of the three.

use forebay_core::ids::Slot;
use forebay_core::liveness::Peer;
use forebay_core::paxos::{
    Az, CONFIGURATION_AT_BYTES_MAX, CONFIGURATION_BYTES_MAX, Change, Configuration,
    ConfigurationAt, MEMBERS_MAX, MemberId, MemberRole,
};
use forebay_storage::log::MemberCreate;

/// Accepted bytes are what their fields encode to, and say something that may be.
pub fn run(data: &[u8]) {
    if let Some(configuration) = Configuration::decode(data) {
        check(&configuration);
        let mut encoded = Vec::new();
        configuration.encode(&mut encoded);
        assert_eq!(encoded, data);
    }
    if let Some((configuration, taken)) = Configuration::decode_prefix(data) {
        // What follows makes no difference.
        assert_eq!(Configuration::decode(&data[..taken]), Some(configuration));
    }
    if let Some(at) = ConfigurationAt::decode(data) {
        check(&at.configuration);
        let mut encoded = Vec::new();
        at.encode(&mut encoded);
        assert!(encoded == data && encoded.len() <= CONFIGURATION_AT_BYTES_MAX);
    }
    if let Some((at, taken)) = ConfigurationAt::decode_prefix(data) {
        assert_eq!(ConfigurationAt::decode(&data[..taken]), Some(at));
    }
    if let Some(create) = MemberCreate::decode(data) {
        create.configuration.iter().for_each(check);
        assert_eq!([&create.prefix(), create.payload].concat(), data);
        assert_eq!(create.first().map(|at| at.configuration), create.configuration);
    }
}

/// The invariants of a configuration, by code of its own.
fn check(configuration: &Configuration) {
    let members = configuration.members();
    assert!((1..=MEMBERS_MAX).contains(&members.len()));
    assert!(members.iter().any(|member| member.role == MemberRole::Storage));
    for (index, member) in members.iter().enumerate() {
        assert!(member.number.0 > 0);
        for other in &members[..index] {
            assert!(other.id != member.id && other.peer != member.peer);
            assert!(other.number != member.number);
        }
    }
    assert!(configuration.encoded_bytes() <= CONFIGURATION_BYTES_MAX);
    assert!((1..=members.len()).contains(&configuration.quorum()));
}

/// Configurations of one, three and, with a log replica, four; founders and one that joins.
pub fn seeds() -> Vec<Vec<u8>> {
    let founder = |n: u16| (MemberId(u64::from(n) << 40), Peer(u32::from(n)), Az(n));
    let founders = |count: u16| (1..=count).map(founder).collect::<Vec<_>>();
    let bootstrap =
        |count| Configuration::bootstrap(&founders(count), 3).expect("storage replicas");
    let add = Change::AddLogReplica { id: MemberId(9), peer: Peer(9), az: Az(9) };
    let four = bootstrap(3).changed(add, 3).expect("one more");
    let mut seeds = Vec::new();
    for configuration in [bootstrap(1), bootstrap(3), four] {
        let mut bytes = Vec::new();
        configuration.encode(&mut bytes);
        seeds.push(bytes);
        let mut bytes = Vec::new();
        ConfigurationAt { slot: Slot(0x0102_0304), configuration }.encode(&mut bytes);
        seeds.push(bytes);
        for (role, configuration) in
            [(MemberRole::Storage, Some(configuration)), (MemberRole::Log, None)]
        {
            let payload = b"the shard's own words";
            let create = MemberCreate { member: MemberId(7), role, configuration, payload };
            seeds.push([&create.prefix(), create.payload].concat());
        }
    }
    seeds
}
