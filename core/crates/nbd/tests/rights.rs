//! Who may connect: the owner of a socket, and whoever reaches a port only if somebody said so.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;

use hrl::ErrorKind;
use hrl::device::MemoryDevice;
use hrl_nbd::{Export, NbdAddress, NbdLimits, NbdServer};

fn serve(address: &str, insecure: bool) -> hrl::Result<NbdServer> {
    let exports = vec![Export::device("disk", Arc::new(MemoryDevice::new(1 << 20)))];
    let limits = NbdLimits { insecure, ..NbdLimits::default() };
    NbdServer::start(&NbdAddress::parse(address).expect("address"), exports, limits)
}

#[test]
fn a_socket_is_its_owners_and_that_of_the_group_of_a_shared_directory() {
    let directory = tempfile::tempdir().expect("directory");
    for (mode, expected) in [(0o777, 0o600), (0o2770, 0o660), (0o2750, 0o640)] {
        fs::set_permissions(directory.path(), Permissions::from_mode(mode)).expect("mode");
        let path = directory.path().join(format!("{mode:o}"));
        let _server = serve(&format!("unix:{}", path.display()), false).expect("serve");
        let found = fs::metadata(&path).expect("socket").mode() & 0o777;
        assert_eq!(found, expected, "in a directory of mode {mode:o}");
    }
}

#[test]
fn without_tls_no_other_machine_reaches_a_port_unless_that_is_said() {
    for open in ["tcp:0.0.0.0:0", "tcp:[::]:0", "tcp:[::ffff:0.0.0.0]:0"] {
        let refused = serve(open, false).err().expect("refused");
        assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{refused}");
        assert!(refused.to_string().contains("TLS"), "{refused}");
    }
    serve("tcp:0.0.0.0:0", true).expect("said");
    for own in ["tcp:localhost:0", "tcp:127.0.0.2:0", "tcp:[::ffff:127.0.0.1]:0"] {
        serve(own, false).expect("of this machine alone");
    }
}
