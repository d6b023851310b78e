//! PCI functions as Linux shows them.
