//! Flags and small fields of Identify Controller. NVMe Base 2.0 §5.17.2.1.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bits! {
    /// Controller Attributes (CTRATT).
    pub struct Ctratt(u32);
    /// 128-bit Host Identifier.
    host_id_128 / with_host_id_128 = [0:0] bool;
    /// Non-Operational Power State Permissive Mode.
    non_operational_permissive / with_non_operational_permissive = [1:1] bool;
    /// NVM Sets.
    nvm_sets / with_nvm_sets = [2:2] bool;
    /// Read Recovery Levels.
    read_recovery_levels / with_read_recovery_levels = [3:3] bool;
    /// Endurance Groups.
    endurance_groups / with_endurance_groups = [4:4] bool;
    /// Predictable Latency Mode.
    predictable_latency / with_predictable_latency = [5:5] bool;
    /// Traffic Based Keep Alive Support.
    tbkas / with_tbkas = [6:6] bool;
    /// Namespace Granularity.
    namespace_granularity / with_namespace_granularity = [7:7] bool;
    /// SQ Associations.
    sq_associations / with_sq_associations = [8:8] bool;
    /// UUID List.
    uuid_list / with_uuid_list = [9:9] bool;
    /// Multi-Domain Subsystem.
    mds / with_mds = [10:10] bool;
    /// Fixed Capacity Management.
    fixed_capacity / with_fixed_capacity = [11:11] bool;
    /// Variable Capacity Management.
    variable_capacity / with_variable_capacity = [12:12] bool;
    /// Delete Endurance Group.
    delete_endurance_group / with_delete_endurance_group = [13:13] bool;
    /// Delete NVM Set.
    delete_nvm_set / with_delete_nvm_set = [14:14] bool;
    /// Extended LBA Formats Supported: up to 64 of them.
    elbas / with_elbas = [15:15] bool;
}

bits! {
    /// Optional Admin Command Support (OACS).
    pub struct Oacs(u16);
    /// Security Send and Security Receive.
    security / with_security = [0:0] bool;
    /// Format NVM.
    format / with_format = [1:1] bool;
    /// Firmware Commit and Firmware Image Download.
    firmware / with_firmware = [2:2] bool;
    /// Namespace Management and Attachment.
    namespace_management / with_namespace_management = [3:3] bool;
    /// Device Self-test.
    self_test / with_self_test = [4:4] bool;
    /// Directives.
    directives / with_directives = [5:5] bool;
    /// NVMe-MI Send and Receive.
    management_interface / with_management_interface = [6:6] bool;
    /// Virtualization Management.
    virtualization / with_virtualization = [7:7] bool;
    /// Doorbell Buffer Config.
    doorbell_buffer / with_doorbell_buffer = [8:8] bool;
    /// Get LBA Status.
    get_lba_status / with_get_lba_status = [9:9] bool;
    /// Command and Feature Lockdown.
    lockdown / with_lockdown = [10:10] bool;
}

bits! {
    /// Firmware Updates (FRMW).
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Frmw(u8);
    /// Slot 1 is read only.
    slot1_read_only / with_slot1_read_only = [0:0] bool;
    /// Number of slots, 1 to 7.
    slots / with_slots = [3:1] u8;
    /// Activation without a reset.
    activate_without_reset / with_activate_without_reset = [4:4] bool;
    /// Support Multiple Update Detection.
    smud / with_smud = [5:5] bool;
}

bits! {
    /// Log Page Attributes (LPA).
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Lpa(u8);
    /// SMART / Health Information per namespace.
    smart_per_namespace / with_smart_per_namespace = [0:0] bool;
    /// Commands Supported and Effects log.
    commands_effects / with_commands_effects = [1:1] bool;
    /// Extended data for Get Log Page: 32-bit dword counts, and offsets.
    extended_data / with_extended_data = [2:2] bool;
    /// Telemetry logs and notices.
    telemetry / with_telemetry = [3:3] bool;
    /// Persistent Event log.
    persistent_event / with_persistent_event = [4:4] bool;
    /// Supported Log Pages and related logs.
    supported_pages / with_supported_pages = [5:5] bool;
    /// Telemetry data area 4.
    telemetry_area4 / with_telemetry_area4 = [6:6] bool;
}

bits! {
    /// Queue entry sizes (SQES, CQES), as powers of two of bytes.
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct EntrySize(u8);
    /// Required, which is the smallest.
    required / with_required = [3:0] u8;
    /// Largest.
    maximum / with_maximum = [7:4] u8;
}

bits! {
    /// Optional NVM Command Support (ONCS).
    pub struct Oncs(u16);
    /// Compare.
    compare / with_compare = [0:0] bool;
    /// Write Uncorrectable.
    write_uncorrectable / with_write_uncorrectable = [1:1] bool;
    /// Dataset Management.
    dataset_management / with_dataset_management = [2:2] bool;
    /// Write Zeroes.
    write_zeroes / with_write_zeroes = [3:3] bool;
    /// The Save field of Set Features and the Select field of Get Features.
    save_select / with_save_select = [4:4] bool;
    /// Reservations.
    reservations / with_reservations = [5:5] bool;
    /// Timestamp feature.
    timestamp / with_timestamp = [6:6] bool;
    /// Verify.
    verify / with_verify = [7:7] bool;
    /// Copy.
    copy / with_copy = [8:8] bool;
}

bits! {
    /// Format NVM Attributes (FNA).
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Fna(u8);
    /// A format, secure erase aside, goes for all namespaces.
    format_all / with_format_all = [0:0] bool;
    /// A secure erase goes for all namespaces.
    erase_all / with_erase_all = [1:1] bool;
    /// Cryptographic erase.
    crypto_erase / with_crypto_erase = [2:2] bool;
    /// Format with the broadcast namespace identifier is *not* supported.
    no_broadcast / with_no_broadcast = [3:3] bool;
}

bits! {
    /// Volatile Write Cache (VWC).
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Vwc(u8);
    /// There is one.
    present / with_present = [0:0] bool;
    /// Flush with the broadcast namespace identifier: 0 not told, 2 not supported,
    /// 3 supported.
    broadcast_flush / with_broadcast_flush = [2:1] u8;
}

bits! {
    /// SGL Support (SGLS).
    pub struct Sgls(u32);
    /// 0 not supported, 1 with no alignment, 2 with dword alignment and granularity.
    support / with_support = [1:0] u8;
    /// Keyed SGL Data Block descriptor.
    keyed / with_keyed = [2:2] bool;
    /// SGL Descriptor Threshold: above this many descriptors performance may suffer.
    sdt / with_sdt = [15:8] u8;
    /// Bit Bucket descriptor.
    bit_bucket / with_bit_bucket = [16:16] bool;
    /// A byte-aligned contiguous metadata buffer.
    metadata_byte_aligned / with_metadata_byte_aligned = [17:17] bool;
    /// SGLs longer than the data transferred.
    longer_than_data / with_longer_than_data = [18:18] bool;
    /// Metadata Pointer that points to an SGL segment.
    metadata_segment / with_metadata_segment = [19:19] bool;
    /// The Address field as an offset.
    offset_address / with_offset_address = [20:20] bool;
    /// Transport SGL Data Block descriptor.
    transport / with_transport = [21:21] bool;
}

bits! {
    /// Sanitize Capabilities (SANICAP).
    pub struct Sanicap(u32);
    /// Crypto Erase.
    ces / with_ces = [0:0] bool;
    /// Block Erase.
    bes / with_bes = [1:1] bool;
    /// Overwrite.
    ows / with_ows = [2:2] bool;
    /// No-Deallocate Inhibited.
    ndi / with_ndi = [29:29] bool;
    /// No-Deallocate Modifies Media After Sanitize.
    nodmmas / with_nodmmas = [31:30] u8;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_alone() {
        check_fields!(Ctratt, Oacs, Frmw, Lpa, EntrySize, Oncs, Fna, Vwc, Sgls, Sanicap);
        assert_eq!(Oacs::default().with_doorbell_buffer(true).bits(), 0x100);
        assert_eq!(Oncs::default().with_verify(true).with_copy(true).bits(), 0x180);
        assert_eq!(Oncs::default().with_dataset_management(true).bits(), 4);
        assert_eq!(Sgls::default().with_bit_bucket(true).with_support(3).bits(), 0x1_0003);
        assert_eq!(Frmw::default().with_slots(0xff).bits(), 0xe);
        assert_eq!(Lpa::default().with_extended_data(true).bits(), 4);
        assert_eq!(Vwc::default().with_broadcast_flush(3).bits(), 6);
        assert_eq!(EntrySize::default().with_maximum(6).with_required(6).bits(), 0x66);
        assert_eq!(Ctratt::default().with_elbas(true).bits(), 0x8000);
        assert_eq!(Fna::default().with_no_broadcast(true).bits(), 8);
        assert_eq!(Sanicap::default().with_nodmmas(3).bits(), 0xc000_0000);
    }
}
