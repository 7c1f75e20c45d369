// The core library is put together from the folders' static libraries; this file only gives the linker a source.
