/**
 * hrl: continuous replication of disks, as a library for C.
 *
 * Handles. A pointer to a handle comes from a function with an output `out`. Free it once with the
 * `_free` of its type; `_free(NULL)` does nothing. A handle keeps alive what it was made of, so
 * handles may be freed in any order. Unless its type says otherwise, all threads may use a handle
 * at once, but not while it is being freed.
 *
 * Statuses. Functions that can fail return HRL_OK (0), or a negative number that says what to do
 * next. Outputs are then untouched. `hrl_error_message` and its like return the details, for the
 * thread that saw the failure. NULL instead of a needed pointer is HRL_ERROR_INVALID_INPUT, never
 * a crash.
 *
 * Pointers. Text is NUL-terminated UTF-8. Sizes stand beside their buffers, in bytes. Arguments
 * must not change or be freed before the call returns. The library keeps none of them unless the
 * function says so. Callbacks must not unwind (no C++ exceptions) and must not free the handle that
 * calls them. Threads of the library call them if their type says so.
 *
 * Structures. A structure that the library fills begins with `struct_bytes`. Set it to the size of
 * the structure, for example by HRL_INIT. The library fills at most that many bytes, and stores in
 * `struct_bytes` how many it filled. Later versions add fields at the end and change nothing else.
 * A size below that of the first release is HRL_ERROR_INVALID_INPUT. In a structure that a callback
 * receives, `struct_bytes` is the size that the library filled.
 */


#ifndef HRL_H
#define HRL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Marks functions of the library. */
#ifndef HRL_API
#define HRL_API
#endif

/**
 * Initializes a structure that begins with `struct_bytes`: `hrl_stats stats = HRL_INIT(hrl_stats);`.
 * The other fields are 0. Since 0.1.
 */
#ifndef __cplusplus
#define HRL_INIT(type) {.struct_bytes = sizeof(type)}
#endif

#ifdef __cplusplus
extern "C" {
#endif

struct hrl_attachment;
struct hrl_buffer;
struct hrl_changes;
struct hrl_device;
struct hrl_failover;
struct hrl_follower;
struct hrl_group_coordinator;
struct hrl_group_member;
struct hrl_key;
struct hrl_mirror;
struct hrl_nbd_server;
struct hrl_plan;
struct hrl_plan_stop;
struct hrl_protection;
struct hrl_protection_options;
struct hrl_replica;
struct hrl_segment;
struct hrl_store;
struct hrl_tap;
struct hrl_tracker;
struct hrl_vault;
struct hrl_point;
struct hrl_attach_stats;
struct hrl_stats;
struct hrl_device_callbacks;
struct hrl_step;
struct hrl_branch;
struct hrl_failover_options;
struct hrl_failover_status;
struct hrl_catch_up;
struct hrl_group_mark;
struct hrl_group_point;
struct hrl_group_options;
struct hrl_quiesce_callbacks;
struct hrl_group_member_stats;
struct hrl_segment_summary;
struct hrl_record;
struct hrl_convert_report;
struct hrl_rekey_report;
struct hrl_rotation_report;
struct hrl_shred_report;
struct hrl_undeleted;
struct hrl_mirrored_volume;
struct hrl_nbd_tls;
struct hrl_nbd_stats;
struct hrl_plan_request;
struct hrl_plan_started;
struct hrl_plan_callbacks;
struct hrl_plan_options;
struct hrl_event;
struct hrl_timeline_entry;
struct hrl_volume_info;
struct hrl_restore_report;
struct hrl_catalog_version;
struct hrl_verify_report;
struct hrl_change;
struct hrl_compact_report;
struct hrl_store_callbacks;
struct hrl_ticket;
struct hrl_checkpoint;
struct hrl_tracker_status;

/* ---- General ----
 * Version, statuses, and the last error of a thread.
 */

/**
 * Major version of this header.
 */
#define HRL_VERSION_MAJOR 0

/**
 * Minor version of this header.
 */
#define HRL_VERSION_MINOR 1

/**
 * Patch version of this header.
 */
#define HRL_VERSION_PATCH 0

/**
 * Result of a function: 0 is success, and a negative value is one of the `HRL_ERROR_` numbers. A
 * positive value is neither; the few functions that return one say so.
 */
typedef int32_t hrl_status;

/**
 * Receives the progress of a long operation, in bytes; returns false to stop it. Called from
 * several threads, never after its own operation has returned.
 */
typedef bool (*hrl_progress_fn)(void *user, uint64_t bytes_done, uint64_t bytes_total);

/**
 * Success.
 */
#define HRL_OK 0

/**
 * Not yet: ask again after the callback was called. Only `hrl_tap_try_begin` returns it.
 */
#define HRL_PENDING 1

/**
 * Fix the request: an argument, option or file can never work as given. Also for NULL instead of a
 * needed pointer.
 */
#define HRL_ERROR_INVALID_INPUT -1

/**
 * Ask for another object: this one does not exist.
 */
#define HRL_ERROR_NOT_FOUND -2

/**
 * The object exists already and is never overwritten.
 */
#define HRL_ERROR_ALREADY_EXISTS -3

/**
 * Use another copy: bytes are not as they were written.
 */
#define HRL_ERROR_CORRUPT -4

/**
 * Supply the right key.
 */
#define HRL_ERROR_WRONG_KEY -5

/**
 * Upgrade: this build does not know a feature or version.
 */
#define HRL_ERROR_UNSUPPORTED -6

/**
 * Retry later: a store, socket or device does not answer now.
 */
#define HRL_ERROR_UNAVAILABLE -7

/**
 * Make room: a disk, quota or named limit is exhausted.
 */
#define HRL_ERROR_FULL -8

/**
 * Reopen: a flush failed, so no write through this handle can be trusted.
 */
#define HRL_ERROR_POISONED -9

/**
 * Stop: another agent or a newer epoch owns the volume.
 */
#define HRL_ERROR_FENCED -10

/**
 * Resync or choose again: the disk is not the protected one, or it changed while unprotected.
 */
#define HRL_ERROR_CHANGED -11

/**
 * Write elsewhere: the object is read-only.
 */
#define HRL_ERROR_READ_ONLY -12

/**
 * Wait for the resync: the volume is in an unordered interval, where no point can exist.
 */
#define HRL_ERROR_NOT_ORDERED -13

/**
 * The operating system refused; `hrl_error_os_code` returns its code.
 */
#define HRL_ERROR_IO -14

/**
 * Use another identity: the server knows this one, and denies it the request.
 */
#define HRL_ERROR_DENIED -15

/**
 * Compare: the history of the vault and the records of it here diverged.
 */
#define HRL_ERROR_DIVERGED -16

/**
 * A defect of the library was caught at its boundary. The handles in use may be unusable. Please
 * report it.
 */
#define HRL_ERROR_PANIC -100

/**
 * Returns the version of the library as text, such as "0.1.0". Static; never NULL. Since 0.1.
 */
HRL_API const char *hrl_version(void);

/**
 * Returns the version of the library: major * 1,000,000 + minor * 1,000 + patch. Since 0.1.
 */
HRL_API uint32_t hrl_version_number(void);

/**
 * Returns the name of a status, such as "not-found". Static; never NULL. Since 0.1.
 */
HRL_API const char *hrl_status_name(hrl_status status);

/**
 * Returns the last error of the calling thread as a sentence: operation, object, place, expected,
 * found, cause. Never NULL; empty if there was none. Valid until the next function of the library
 * fails on this thread. Since 0.1.
 */
HRL_API const char *hrl_error_message(void);

/**
 * Returns what the library was doing, such as "read segment". As `hrl_error_message` otherwise.
 * Since 0.1.
 */
HRL_API const char *hrl_error_operation(void);

/**
 * Returns the name of the object of that operation. As `hrl_error_message` otherwise. Since 0.1.
 */
HRL_API const char *hrl_error_object(void);

/**
 * Stores the byte offset of the last error in its object, and returns true. Returns false, with
 * `offset` untouched, if there is none. Since 0.1.
 */
HRL_API bool hrl_error_offset(uint64_t *offset);

/**
 * Returns the operating system's code (errno) of the last error; 0 for another cause. Since 0.1.
 */
HRL_API int32_t hrl_error_os_code(void);

/* ---- Values ----
 * Points, history and volumes, as several functions return them.
 */

/**
 * Room for an identity: 32 hexadecimal digits and the end.
 */
#define HRL_ID_CHARS 33

/**
 * Room for a chain hash: 64 hexadecimal digits and the end.
 */
#define HRL_HASH_CHARS 65

/**
 * Room for a label.
 */
#define HRL_LABEL_CHARS 256

/**
 * Room for the name of a volume.
 */
#define HRL_NAME_CHARS 129

/**
 * How much the capture of a volume can promise.
 */
typedef enum hrl_mode {
    /**
     * Every write is captured with its data, in order: points can be marked.
     */
    HRL_MODE_ORDERED = 0,
    /**
     * Data is not captured. Only the dirty map grows, and the writer goes on.
     */
    HRL_MODE_DIRTY = 1,
    /**
     * Dirty regions are being read again while new writes are captured.
     */
    HRL_MODE_RESYNC = 2,
} hrl_mode;

/**
 * What a recovery point promises.
 */
typedef enum hrl_point_kind {
    /**
     * Write order, nothing more: what a power failure would leave.
     */
    HRL_POINT_CRASH = 1,
    /**
     * Applications were quiesced and flushed.
     */
    HRL_POINT_APP = 2,
    /**
     * One cut across the volumes of a group, crash-consistent.
     */
    HRL_POINT_GROUP_CRASH = 3,
    /**
     * One cut across a group whose applications were quiesced.
     */
    HRL_POINT_GROUP_APP = 4,
    /**
     * The application declared it at a transaction boundary of its own, without a freeze.
     */
    HRL_POINT_DECLARED = 5,
} hrl_point_kind;

/**
 * A recovery point. Times are nanoseconds since 1970 in UTC.
 */
typedef struct hrl_point {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * Identity, in hexadecimal digits.
     */
    char id[HRL_ID_CHARS];
    /**
     * A `hrl_point_kind`.
     */
    uint32_t kind;
    /**
     * Its place in the write order.
     */
    uint64_t sequence;
    /**
     * Time of the mark.
     */
    int64_t time_ns;
    /**
     * Epoch of the source.
     */
    uint32_t epoch;
    /**
     * Label that it was marked with.
     */
    char label[HRL_LABEL_CHARS];
    /**
     * Chain hash of the segment that ends with it, in hexadecimal digits.
     */
    char chain[HRL_HASH_CHARS];
    /**
     * Whether a pin keeps it through retention.
     */
    bool pinned;
    /**
     * Whether it is under legal hold.
     */
    bool held;
    /**
     * End of its pin; 0 for a pin without an end, and without a pin.
     */
    int64_t pinned_until_ns;
    /**
     * Checks that found it good. Of each kind of check the newest counts.
     */
    uint32_t checks_good;
    /**
     * Checks that found it bad.
     */
    uint32_t checks_bad;
} hrl_point;

/**
 * A stretch of a volume's history, from one sequence to another, both included.
 */
typedef struct hrl_timeline_entry {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * First sequence.
     */
    uint64_t first_sequence;
    /**
     * Last sequence.
     */
    uint64_t last_sequence;
    /**
     * Time of the first, in nanoseconds since 1970 in UTC.
     */
    int64_t first_time_ns;
    /**
     * Time of the last.
     */
    int64_t last_time_ns;
    /**
     * Cause, such as "crash", for which no state inside the stretch can be restored. Static.
     * NULL for an ordered stretch.
     */
    const char *unordered;
    /**
     * Whether retention folded the stretch. Then only the last sequence of the fold can be
     * restored.
     */
    bool folded;
} hrl_timeline_entry;

/**
 * Receives one stretch of history; returns false to stop.
 */
typedef bool (*hrl_timeline_fn)(void *user, const struct hrl_timeline_entry *entry);

/**
 * A volume of a vault.
 */
typedef struct hrl_volume_info {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * Name in the vault.
     */
    char name[HRL_NAME_CHARS];
    /**
     * Identity, in hexadecimal digits.
     */
    char id[HRL_ID_CHARS];
    /**
     * Size in bytes.
     */
    uint64_t size_bytes;
    /**
     * Block size in bytes.
     */
    uint32_t block_bytes;
    /**
     * Time of its creation, in nanoseconds since 1970 in UTC.
     */
    int64_t created_ns;
    /**
     * Whether its data is encrypted.
     */
    bool encrypted;
    /**
     * Whether it is tracked without data. Then it has change sets, but no states.
     */
    bool extents_only;
    /**
     * Whether its keys were deleted. Then nothing of it can be read any more.
     */
    bool shredded;
} hrl_volume_info;

/**
 * Receives one point, which lives until it returns; returns false to stop.
 */
typedef bool (*hrl_point_fn)(void *user, const struct hrl_point *point);

/**
 * Receives one volume; returns false to stop.
 */
typedef bool (*hrl_volume_fn)(void *user, const struct hrl_volume_info *volume);

/* ---- Vaults ----
 * Where replicas are kept: stores, keys, vaults.
 */

/**
 * Length of a key, in bytes.
 */
#define HRL_KEY_BYTES 32

/**
 * Flag of `hrl_vault_shred`: also delete everything else of the volume, which frees its name.
 */
#define HRL_SHRED_DATA 1

/**
 * Flag of `hrl_vault_shred`: go on despite a legal hold, or if legal holds cannot be read without
 * the key.
 */
#define HRL_SHRED_OVERRIDE_LEGAL_HOLD 2

/**
 * A key-encryption key: it wraps the keys of volumes.
 */
typedef struct hrl_key hrl_key;

/**
 * A place for immutable objects, in which a vault is kept. All threads may use it at once.
 */
typedef struct hrl_store hrl_store;

/**
 * A store with volumes in it. All threads may use it at once.
 */
typedef struct hrl_vault hrl_vault;

/**
 * Reports what another volume key is.
 */
typedef struct hrl_rekey_report {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * Generation of the key that encrypts what is new; the first key of a volume has 1.
     */
    uint32_t generation;
    /**
     * Whether an interrupted call had drawn it.
     */
    bool was_drawn;
} hrl_rekey_report;

/**
 * Reports what a rotation did.
 */
typedef struct hrl_rotation_report {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * Whether this rotation wrapped the volume key with the new key; false if it was wrapped
     * before.
     */
    bool wrapped;
    /**
     * Whether this rotation removed the wrapping of the old key; false if there was none.
     */
    bool unwrapped;
    /**
     * Other keys that still open it, as interrupted rotations leave them. Rotating from each
     * removes it.
     */
    uint64_t others;
} hrl_rotation_report;

/**
 * Reports what shredding did.
 */
typedef struct hrl_shred_report {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * Whether the volume was shredded before.
     */
    bool was_shredded;
    /**
     * Wrapped keys deleted.
     */
    uint64_t keys_deleted;
    /**
     * Other objects deleted.
     */
    uint64_t objects_deleted;
    /**
     * Bytes of these objects.
     */
    uint64_t bytes_deleted;
} hrl_shred_report;

/**
 * Receives name and size of one object of a listing, with the `context` of that listing.
 */
typedef void (*hrl_list_fn)(void *context, const char *name, uint64_t length);

/**
 * A store of your own. The functions return 0 or an errno. They are called from any thread,
 * several at once, and must not unwind. Objects never change after they were put. ETIMEDOUT and
 * ECONNREFUSED are temporary failures, and are tried again.
 */
typedef struct hrl_store_callbacks {
    /**
     * `sizeof(hrl_store_callbacks)`, so that later versions can add to it.
     */
    size_t struct_bytes;
    /**
     * Name for errors; copied. NULL: "store".
     */
    const char *name;
    /**
     * Creates an object whole and durably, or returns EEXIST if the name is taken. Of several
     * callers that race exactly one creates it.
     */
    int32_t (*put)(void *user, const char *name, const uint8_t *data, size_t length);
    /**
     * Fills `buffer` with the bytes of an object from `offset` on; ENOENT if it is absent. The
     * range is never beyond the end.
     */
    int32_t (*get)(void *user, const char *name, uint64_t offset, uint8_t *buffer, size_t length);
    /**
     * Stores the size of an object in `length`; ENOENT if it is absent.
     */
    int32_t (*head)(void *user, const char *name, uint64_t *length);
    /**
     * Calls `found(context, name, length)` for every object whose name starts with `prefix`, in
     * any order.
     */
    int32_t (*list)(void *user, const char *prefix, hrl_list_fn found, void *context);
    /**
     * Removes an object; succeeds if it is absent.
     */
    int32_t (*remove)(void *user, const char *name);
    /**
     * Called once, when nothing uses the store any more. NULL: nothing.
     */
    void (*free)(void *user);
} hrl_store_callbacks;

/**
 * Makes a key of `HRL_KEY_BYTES` random bytes, which are copied. Free it with `hrl_key_free`.
 * Statuses: HRL_ERROR_INVALID_INPUT (another length). Since 0.1.
 */
HRL_API hrl_status hrl_key_from_bytes(const uint8_t *bytes, size_t length, struct hrl_key **out);

/**
 * Reads a key from a file: 32 bytes, or 64 hexadecimal digits and white space around them.
 * Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_INVALID_INPUT, HRL_ERROR_IO. Since 0.1.
 */
HRL_API hrl_status hrl_key_from_file(const char *path, struct hrl_key **out);

/**
 * Returns the name of the key in hexadecimal digits, which reveals nothing about it. Errors
 * identify by it the key that is needed. Valid as long as the handle lives; empty for NULL. Since
 * 0.1.
 */
HRL_API const char *hrl_key_id(const struct hrl_key *key);

/**
 * Frees a key; NULL is fine. Since 0.1.
 */
HRL_API void hrl_key_free(struct hrl_key *key);

/**
 * Draws another key for a volume. What is written and folded from now on is encrypted with it, so
 * that whoever has the earlier key cannot read it; earlier data stays readable with the earlier key.
 * Agents that run go on with it when they next publish, if their key-encryption key still opens the
 * volume. After an interruption run it again to finish. `report` may be NULL.
 * Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_WRONG_KEY, HRL_ERROR_INVALID_INPUT (not encrypted),
 * HRL_ERROR_CHANGED (the key-encryption key was rotated meanwhile), HRL_ERROR_CORRUPT,
 * HRL_ERROR_UNAVAILABLE. Since 0.1.
 */
HRL_API
hrl_status hrl_vault_rekey(const struct hrl_vault *vault,
                           const char *volume,
                           struct hrl_rekey_report *report);

/**
 * Wraps the keys of a volume anew with `new_key`, and removes the wrapping by the key of the
 * vault's handle. No data is rewritten, and agents that have the volume open go on. After an
 * interruption the volume opens with either key; run it again to finish. `report` may be NULL.
 * Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_WRONG_KEY, HRL_ERROR_INVALID_INPUT (not encrypted, or
 * the same key), HRL_ERROR_CORRUPT, HRL_ERROR_UNAVAILABLE. Since 0.1.
 */
HRL_API
hrl_status hrl_vault_rotate_key(const struct hrl_vault *vault,
                                const char *volume,
                                const struct hrl_key *new_key,
                                struct hrl_rotation_report *report);

/**
 * Makes an encrypted volume unreadable for ever: deletes every wrapped key of it. `flags` are of
 * HRL_SHRED_. Stop its source first. It does not reach versions, snapshots and copies that a store
 * keeps of deleted objects. It can be run again, and finishes what was interrupted. `report` may
 * be NULL.
 * Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_FENCED (legal hold), HRL_ERROR_WRONG_KEY (legal holds
 * cannot be read), HRL_ERROR_INVALID_INPUT (not encrypted, and HRL_SHRED_DATA not given),
 * HRL_ERROR_UNAVAILABLE. Since 0.1.
 */
HRL_API
hrl_status hrl_vault_shred(const struct hrl_vault *vault,
                           const char *volume,
                           uint32_t flags,
                           struct hrl_shred_report *report);

/**
 * Opens a directory as a store, and with `create` makes it if it is absent. Free it with
 * `hrl_store_free`.
 * Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_INVALID_INPUT (no directory), HRL_ERROR_IO. Since 0.1.
 */
HRL_API hrl_status hrl_store_open_directory(const char *path, bool create, struct hrl_store **out);

/**
 * Opens the store at `url`: a path or file://PATH. Builds with the feature `cloud` also take
 * s3://BUCKET/PREFIX, az://CONTAINER/PREFIX and gs://BUCKET/PREFIX. Options follow `?`, as in
 * `s3://vaults?endpoint=https://s3.example.net`. Credentials come from the environment. With
 * `create` a directory is made if it is absent; buckets never are. Free the store with
 * `hrl_store_free`.
 * Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_INVALID_INPUT (also refused credentials),
 * HRL_ERROR_UNSUPPORTED (a build without `cloud`), HRL_ERROR_UNAVAILABLE. Since 0.1.
 */
HRL_API hrl_status hrl_store_open_url(const char *url, bool create, struct hrl_store **out);

/**
 * Makes a store of your functions. All are needed but `free`. `callbacks` is copied; each function
 * receives `user`.
 * Statuses: HRL_ERROR_INVALID_INPUT; then `free` is not called. Since 0.1.
 */
HRL_API
hrl_status hrl_store_from_callbacks(const struct hrl_store_callbacks *callbacks,
                                    void *user,
                                    struct hrl_store **out);

/**
 * Frees the handle; NULL is fine. Vaults in the store go on. Since 0.1.
 */
HRL_API void hrl_store_free(struct hrl_store *store);

/**
 * Makes a store into a vault, or opens the vault that it is. With a key, volumes made through this
 * handle are encrypted; NULL: no key. Store and key may be freed afterwards. Free the vault with
 * `hrl_vault_free`.
 * Statuses: HRL_ERROR_UNAVAILABLE, HRL_ERROR_UNSUPPORTED (a later version), HRL_ERROR_FULL,
 * HRL_ERROR_READ_ONLY, HRL_ERROR_IO. Since 0.1.
 */
HRL_API
hrl_status hrl_vault_create(const struct hrl_store *store,
                            const struct hrl_key *key,
                            struct hrl_vault **out);

/**
 * Opens a vault. As `hrl_vault_create` otherwise, and HRL_ERROR_NOT_FOUND if the store is no
 * vault. Since 0.1.
 */
HRL_API
hrl_status hrl_vault_open(const struct hrl_store *store,
                          const struct hrl_key *key,
                          struct hrl_vault **out);

/**
 * Opens the vault at `url`, as `hrl_store_open_url` takes it, for the agent of the directory
 * `state`. A new state directory makes a vault of an empty or absent directory. One that knows a
 * volume makes none, and `hrl_protection_open` then succeeds even while the vault is away.
 * Statuses: HRL_ERROR_INVALID_INPUT, HRL_ERROR_UNSUPPORTED, and with a new state directory those of
 * `hrl_store_open_url` and `hrl_vault_create`. Since 0.1.
 */
HRL_API
hrl_status hrl_vault_open_for_agent(const char *url,
                                    const char *state,
                                    const struct hrl_key *key,
                                    struct hrl_vault **out);

/**
 * Passes every volume of the vault to `each` on the calling thread.
 * Statuses: HRL_ERROR_UNAVAILABLE, HRL_ERROR_CORRUPT, HRL_ERROR_IO. Since 0.1.
 */
HRL_API hrl_status hrl_vault_volumes(const struct hrl_vault *vault, hrl_volume_fn each, void *user);

/**
 * Accepts that versions of a volume's catalog are lost, for a vault that went back and whose source
 * is lost with what it put since. Readers and failovers go on with the version `from` before the
 * gap; `until` is the newest one. Both are 0 if no version is missing, and may be NULL. Nothing is
 * deleted, and the catalog is whole again if the versions return.
 * Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_CORRUPT (no version can be read), HRL_ERROR_WRONG_KEY,
 * HRL_ERROR_UNAVAILABLE, HRL_ERROR_READ_ONLY, HRL_ERROR_IO. Since 0.1.
 */
HRL_API
hrl_status hrl_vault_accept_gap(const struct hrl_vault *vault,
                                const char *volume,
                                uint64_t *from,
                                uint64_t *until);

/**
 * Frees the handle; NULL is fine. Protections and replicas of the vault go on. Since 0.1.
 */
HRL_API void hrl_vault_free(struct hrl_vault *vault);

/* ---- Protection ----
 * Capture and replicate a volume, and take points.
 */

/**
 * One protected volume, running. All threads may use it at once.
 */
typedef struct hrl_protection hrl_protection;

/**
 * Options for opening a protection. Used by one thread at a time.
 */
typedef struct hrl_protection_options hrl_protection_options;

/**
 * Reports the condition of a protection.
 */
typedef struct hrl_stats {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * A `hrl_mode`.
     */
    uint32_t mode;
    /**
     * Newest sequence captured.
     */
    uint64_t last_sequence;
    /**
     * Newest sequence durable in the local journal.
     */
    uint64_t journaled_sequence;
    /**
     * Newest sequence in the vault.
     */
    uint64_t replicated_sequence;
    /**
     * Age of the oldest change that the vault lacks, captured or not, in milliseconds.
     */
    uint64_t rpo_ms;
    /**
     * Changes captured: writes, zeroes, discards.
     */
    uint64_t changes;
    /**
     * Bytes of data captured.
     */
    uint64_t bytes_captured;
    /**
     * Bytes of closed segments written.
     */
    uint64_t bytes_stored;
    /**
     * Memory of the queue, in bytes.
     */
    uint64_t queue_bytes;
    /**
     * Segments waiting for the vault, in bytes.
     */
    uint64_t spool_bytes;
    /**
     * Bytes captured that are not in the vault: queue and spool.
     */
    uint64_t backlog_bytes;
    /**
     * Recent throughput of shipping, in bytes per second, or the bandwidth allowed now if that
     * is less. 0 before anything was shipped.
     */
    uint64_t ship_bytes_per_second;
    /**
     * Milliseconds until the backlog is in the vault at that throughput, if nothing more is
     * written. UINT64_MAX if the vault does not answer or the throughput is unknown.
     */
    uint64_t eta_ms;
    /**
     * Dirty regions, which would be read again after a crash now.
     */
    uint64_t marked_regions;
    /**
     * Bytes that a resync has still to read.
     */
    uint64_t resync_bytes_left;
    /**
     * Bytes that the current resync, or the last one, has read.
     */
    uint64_t resync_bytes_read;
    /**
     * Points marked in this session.
     */
    uint64_t points;
    /**
     * Whether the vault took the last segment.
     */
    bool vault_available;
    /**
     * Whether another source has the volume now. Then nothing is replicated any more.
     */
    bool fenced;
    /**
     * Whether the failover to here is not committed. Then changes stay in the spool.
     */
    bool provisional;
    /**
     * Whether a planned failover has the volume. Then writes are refused.
     */
    bool handed_over;
    /**
     * Newest version of the catalog, as this agent knows it.
     */
    uint64_t catalog_version;
    /**
     * Time of the newest record or heartbeat that the version lists, in nanoseconds since 1970;
     * 0 before both.
     */
    int64_t catalog_time_ns;
    /**
     * Whether the vault has not answered since the start. Then nothing is shipped, and nothing
     * counts as replicated.
     */
    bool vault_away;
} hrl_stats;

/**
 * Quiesces an application around a mark. The functions return 0 or an errno, and must not unwind.
 */
typedef struct hrl_quiesce_callbacks {
    /**
     * `sizeof(hrl_quiesce_callbacks)`, so that later versions can add to it.
     */
    size_t struct_bytes;
    /**
     * Name for errors and events; copied. NULL: "application".
     */
    const char *name;
    /**
     * Makes the data on disk consistent and keeps it so until `release`. Should be done within
     * `limit_ms`.
     */
    int32_t (*quiesce)(void *user, uint64_t limit_ms);
    /**
     * Lets the application go on. Called exactly once for each `quiesce`, even if that failed.
     */
    int32_t (*release)(void *user);
} hrl_quiesce_callbacks;

/**
 * Describes an event of a protected volume. The texts live until the callback returns.
 */
typedef struct hrl_event {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * Time of the event, in nanoseconds since 1970 in UTC.
     */
    int64_t time_ns;
    /**
     * Name of the volume.
     */
    const char *volume;
    /**
     * Stable name of the event, such as "mode-changed", "point-marked", "vault-unavailable",
     * "fenced".
     */
    const char *kind;
    /**
     * One sentence for people.
     */
    const char *message;
} hrl_event;

/**
 * Receives an event, on a thread of the library; must return soon.
 */
typedef void (*hrl_event_fn)(void *user, const struct hrl_event *event);

/**
 * Begins the options for protecting `device` as `volume` of `vault`. `state` is the state
 * directory of this agent: dirty map, spool, identity. It is created if it is absent, and must not
 * be on the protected device. `device` is NULL for `hrl_attach_open`. Device and vault may be freed
 * afterwards. Free the options with `hrl_protection_options_free`.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API
hrl_status hrl_protection_options_new(const char *volume,
                                      const struct hrl_device *device,
                                      const struct hrl_vault *vault,
                                      const char *state,
                                      struct hrl_protection_options **out);

/**
 * Sets one field of the policy from text, by the names of policy files. For example
 * "memory_budget_bytes" "67108864", "crash_point_interval" "60s", "compression" "zstd:1".
 * `hrl_protection_open` checks the values together.
 * Statuses: HRL_ERROR_INVALID_INPUT (the message lists the names). Since 0.1.
 */
HRL_API
hrl_status hrl_protection_options_set(struct hrl_protection_options *options,
                                      const char *name,
                                      const char *value);

/**
 * Takes the volume over if another source has it. By default that is HRL_ERROR_FENCED.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API hrl_status hrl_protection_options_take_over(struct hrl_protection_options *options, bool take_over);

/**
 * Goes on with another disk than the one that was protected, and compares all of it. Has no effect
 * if the disk is the same. By default another disk is HRL_ERROR_CHANGED.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API hrl_status hrl_protection_options_adopt_disk(struct hrl_protection_options *options, bool adopt_disk);

/**
 * Says that a copy writes to the volume, such as the mirror of a running machine. The volume is
 * unordered until its driver says by `hrl_protection_set_writer_in_sync` that the copy is in sync. By
 * default writers keep their order by themselves. `hrl_attach_open` ignores it.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API
hrl_status hrl_protection_options_outside_writer(struct hrl_protection_options *options,
                                                 bool outside_writer);

/**
 * Sets whether a sudden change of what is written, as when data is encrypted, is noticed. By default
 * it is: it raises the event "suspicious-change", and points from then on have a bad verdict until
 * they are trusted (`hrl_replica_trust`).
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API hrl_status hrl_protection_options_suspicion(struct hrl_protection_options *options, bool suspicion);

/**
 * Sets the callback that receives events; NULL: events are dropped. It is called until
 * `hrl_protection_free` has returned.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API
hrl_status hrl_protection_options_on_event(struct hrl_protection_options *options,
                                           hrl_event_fn callback,
                                           void *user);

/**
 * Frees the options; NULL is fine. Since 0.1.
 */
HRL_API void hrl_protection_options_free(struct hrl_protection_options *options);

/**
 * Opens the volume, finds the regions to read again, and starts. The options may be used again and
 * freed. Free the protection with `hrl_protection_free`, after `hrl_protection_stop`.
 * Statuses: HRL_ERROR_FENCED (another agent or source has the volume), HRL_ERROR_CHANGED (not the
 * disk that was protected), HRL_ERROR_WRONG_KEY, HRL_ERROR_UNAVAILABLE (the vault),
 * HRL_ERROR_INVALID_INPUT (the policy), HRL_ERROR_FULL, HRL_ERROR_IO. While the vault is away, a
 * state directory that knows the volume suffices, with a vault of `hrl_vault_open_for_agent`.
 * Since 0.1.
 */
HRL_API
hrl_status hrl_protection_open(const struct hrl_protection_options *options,
                               struct hrl_protection **out);

/**
 * Returns the protected volume as a device: writes to it are captured. From now on nothing else
 * may write to the disk below. Free it with `hrl_device_free`, before `hrl_protection_stop`.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API hrl_status hrl_protection_device(const struct hrl_protection *protection, struct hrl_device **out);

/**
 * Returns the tap of the volume, for agents that do their own I/O. Free it with `hrl_tap_free`.
 * The protection flushes its device itself before it relies on what you wrote. This covers your
 * writes through any descriptor of the same file, even if the device is read-only.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API hrl_status hrl_protection_tap(const struct hrl_protection *protection, struct hrl_tap **out);

/**
 * Marks a recovery point now, and returns once it is durable in the local journal. `kind` is a
 * `hrl_point_kind`: HRL_POINT_CRASH, or HRL_POINT_DECLARED at a transaction boundary of the
 * caller's. The other kinds need a quiesced application or a group. `label` and `point` may be NULL.
 * A mark needs no flush: the journal has the writes.
 * Statuses: HRL_ERROR_NOT_ORDERED (first copy, resync or overflow), HRL_ERROR_INVALID_INPUT (another
 * kind, a label above 255 bytes), HRL_ERROR_FENCED. Since 0.1.
 */
HRL_API
hrl_status hrl_protection_mark(const struct hrl_protection *protection,
                               uint32_t kind,
                               const char *label,
                               struct hrl_point *point);

/**
 * Marks an application-consistent point: quiesce, flush, mark, release, in this order. The
 * callbacks run on the calling thread. If the application cannot be quiesced, or the mark would
 * come after `limit_ms`, there is no point (HRL_ERROR_UNAVAILABLE), and the application is
 * released. `label` and `point` may be NULL.
 * Statuses: those of `hrl_protection_mark`, and those of the callbacks. Since 0.1.
 */
HRL_API
hrl_status hrl_protection_mark_quiesced(const struct hrl_protection *protection,
                                        const struct hrl_quiesce_callbacks *callbacks,
                                        void *user,
                                        const char *label,
                                        uint64_t limit_ms,
                                        struct hrl_point *point);

/**
 * Marks an application-consistent point with the applications and the limit of the policy. Its
 * name "quiesce" takes one specification a line, such as "postgresql:dbname=app\nfs:/srv";
 * core/docs/quiesce.md lists them. "quiesce_limit" is the limit, and "app_point_interval" makes
 * such points by the clock. The program hrl-watchdog quiesces and releases them, even if this
 * process is killed meanwhile. `label` and `point` may be NULL.
 * Statuses: those of `hrl_protection_mark`; HRL_ERROR_UNAVAILABLE and others if they cannot be
 * quiesced or did not stay so. Then there is no point, and they are released.
 * HRL_ERROR_INVALID_INPUT (the policy lists none). Since 0.1.
 */
HRL_API
hrl_status hrl_protection_mark_app(const struct hrl_protection *protection,
                                   const char *label,
                                   struct hrl_point *point);

/**
 * Sets the path of the program hrl-watchdog for this process. By default it is searched in
 * `libexec` of the library's prefix, beside the running program, and by HRL_WATCHDOG.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API hrl_status hrl_set_watchdog(const char *path);

/**
 * Reports the condition of the protection now.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API hrl_status hrl_protection_stats(const struct hrl_protection *protection, struct hrl_stats *stats);

/**
 * Passes the history that the vault knows to `each` on the calling thread.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API
hrl_status hrl_protection_timeline(const struct hrl_protection *protection,
                                   hrl_timeline_fn each,
                                   void *user);

/**
 * Waits until the first copy or resync is complete.
 * Statuses: HRL_ERROR_UNAVAILABLE (not within `limit_ms`), HRL_ERROR_FENCED. Since 0.1.
 */
HRL_API hrl_status hrl_protection_wait_ordered(const struct hrl_protection *protection, uint64_t limit_ms);

/**
 * Waits until everything captured before the call is in the vault. `sequence`, which may be NULL,
 * receives the newest sequence there.
 * Statuses: those of `hrl_protection_wait_ordered`. Since 0.1.
 */
HRL_API
hrl_status hrl_protection_wait_replicated(const struct hrl_protection *protection,
                                          uint64_t limit_ms,
                                          uint64_t *sequence);

/**
 * Reads the whole disk again, beside the writes. Older points stay usable; none is marked until it
 * is complete.
 * Statuses: HRL_ERROR_IO, HRL_ERROR_FULL. Since 0.1.
 */
HRL_API hrl_status hrl_protection_resync(const struct hrl_protection *protection);

/**
 * Says whether the outside writer is in sync (`hrl_protection_options_outside_writer`). From true on
 * its writes are in order, and points can be marked once what must be read again is read; false begins
 * an unordered interval. Call it with true after the writer's driver has said so, such as QEMU by
 * "actively-synced". An NBD server begins an interval by itself when a client that wrote goes away or
 * a change fails.
 * Statuses: HRL_ERROR_INVALID_INPUT if the volume has no outside writer. Since 0.1.
 */
HRL_API hrl_status hrl_protection_set_writer_in_sync(const struct hrl_protection *protection, bool in_sync);

/**
 * Ends the session cleanly. Closes and ships what was captured, flushes the disk, and leaves a
 * clean dirty map, so that the next session reads nothing again. It waits for the vault up to
 * `limit_ms`; the rest stays in the spool. Every writer must be gone before. Calls on other
 * threads are waited for. Afterwards every function but `hrl_protection_free` returns
 * HRL_ERROR_INVALID_INPUT, even if this one failed. A second stop does nothing.
 * Statuses: HRL_ERROR_UNAVAILABLE, HRL_ERROR_FENCED, HRL_ERROR_IO. The next session then reads
 * some regions again. Since 0.1.
 */
HRL_API hrl_status hrl_protection_stop(const struct hrl_protection *protection, uint64_t limit_ms);

/**
 * Frees the protection; NULL is fine. Without a stop before it ends as in a crash: the next
 * session reads the dirty regions again. Since 0.1.
 */
HRL_API void hrl_protection_free(struct hrl_protection *protection);

/* ---- Attachments ----
 * Protect a disk in use by points at intervals.
 */

/**
 * A disk in use, protected by points at intervals. All threads may use it at once.
 */
typedef struct hrl_attachment hrl_attachment;

/**
 * Reports what the cuts of an attachment have taken, as of the last one.
 */
typedef struct hrl_attach_stats {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * Time of the last point of this session, in nanoseconds since 1970 in UTC; 0 before. Later
     * changes are not in the replica.
     */
    int64_t last_point_time_ns;
    /**
     * How long the last cut took, until its point was durable.
     */
    uint64_t last_cut_ms;
    /**
     * Cuts that were tried for the last point.
     */
    uint32_t last_cut_tries;
    /**
     * Bytes that were copied for the last point.
     */
    uint64_t last_cut_bytes_copied;
    /**
     * Bytes that were copied after the flip of the last point.
     */
    uint64_t last_cut_bytes_in_cut;
    /**
     * Bytes copied for each byte of the blocks that had changed, in hundredths; at least 100.
     */
    uint64_t read_amplification_percent;
    /**
     * Bytes that were copied in this session, without those of a compared disk.
     */
    uint64_t bytes_copied;
    /**
     * Memory of the maps of changed blocks, in bytes. It is never swapped.
     */
    uint64_t map_bytes;
    /**
     * Points of this session that were made by cuts.
     */
    uint64_t cuts;
    /**
     * Points that were due and could not be made.
     */
    uint64_t skipped;
    /**
     * Audits that failed: the whole disk was compared after each.
     */
    uint64_t audits_failed;
    /**
     * Points for which file systems were frozen, because no cut was clean without that.
     */
    uint64_t freezes;
    /**
     * Whether the programs and their maps outlive this process.
     */
    bool pinned;
} hrl_attach_stats;

/**
 * Attaches to the block device `disk`, which others write to, and begins the first copy or goes on.
 * Nobody is slowed down, stopped or remounted. `options` are those of a protection, made with NULL
 * for the device; the policy's "crash_point_interval" says how often a point is made: at least 5 s,
 * or 0 for points on demand. Neither the state directory nor the vault may lie on the disk.
 *
 * Each point is a clean, audited cut: every write that was completed before it is in it, and none
 * that began after. Between points nothing can be restored. If no cut is clean within the policy's
 * "cut_limit", the file systems on the disk are frozen for at most its "freeze_limit"; 0 freezes
 * none. Free the attachment with `hrl_attach_free`, after `hrl_attach_stop`.
 * Statuses: HRL_ERROR_UNSUPPORTED (a disk that cannot be observed, or an old kernel), HRL_ERROR_DENIED
 * (capabilities are missing), HRL_ERROR_INVALID_INPUT (the agent would write to the disk), and those
 * of `hrl_protection_open`. Since 0.1.
 */
HRL_API
hrl_status hrl_attach_open(const struct hrl_protection_options *options,
                           const char *disk,
                           struct hrl_attachment **out);

/**
 * Attaches `count` disks of a machine, whose points are one cut: no disk has a write whose cause
 * another one lacks. `options` and `disks` are those of each, as for `hrl_attach_open`; `out` has room
 * for as many attachments, in their order. Each has a state directory of its own. Policies must agree
 * in the intervals of points and in their limits; the applications of all are quiesced.
 *
 * Each point is one of the group `group`. A point that any of the attachments makes is made of all
 * disks. Stop and free each of them; the first that is stopped makes the last point of all.
 * Statuses: those of `hrl_attach_open`. Since 0.1.
 */
HRL_API
hrl_status hrl_attach_open_together(const char *group,
                                    const struct hrl_protection_options *const *options,
                                    const char *const *disks,
                                    size_t count,
                                    struct hrl_attachment **out);

/**
 * Makes a point now, and returns once it is durable in the local journal. Every write that was
 * completed before the call is in it. `kind` is HRL_POINT_CRASH or HRL_POINT_DECLARED. `label` and
 * `point` may be NULL.
 * Statuses: HRL_ERROR_NOT_ORDERED (first copy or resync), HRL_ERROR_UNAVAILABLE (no cut was clean in
 * time, or an audit failed), HRL_ERROR_INVALID_INPUT, HRL_ERROR_FENCED. Since 0.1.
 */
HRL_API
hrl_status hrl_attach_mark(const struct hrl_attachment *attachment,
                           uint32_t kind,
                           const char *label,
                           struct hrl_point *point);

/**
 * Makes an application-consistent point with the applications of the policy: copies most of what
 * changed, quiesces, cuts and releases. `label` and `point` may be NULL.
 * Statuses: those of `hrl_attach_mark`. Since 0.1.
 */
HRL_API
hrl_status hrl_attach_mark_app(const struct hrl_attachment *attachment,
                               const char *label,
                               struct hrl_point *point);

/**
 * Reports what cuts have taken, as of the last one.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API
hrl_status hrl_attach_get_stats(const struct hrl_attachment *attachment,
                                struct hrl_attach_stats *stats);

/**
 * Reports the condition of the journal, the spool and shipping now. Its `rpo_ms` counts from the
 * last point that is in the vault.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API
hrl_status hrl_attach_protection_stats(const struct hrl_attachment *attachment,
                                       struct hrl_stats *stats);

/**
 * Waits until a point was made in this session by the policy or `hrl_attach_mark`.
 * Statuses: HRL_ERROR_UNAVAILABLE (not within `limit_ms`). Since 0.1.
 */
HRL_API hrl_status hrl_attach_wait_point(const struct hrl_attachment *attachment, uint64_t limit_ms);

/**
 * Waits until everything of the last point is in the vault. `sequence`, which may be NULL, receives
 * the newest sequence there.
 * Statuses: HRL_ERROR_UNAVAILABLE (not within `limit_ms`), HRL_ERROR_FENCED. Since 0.1.
 */
HRL_API
hrl_status hrl_attach_wait_replicated(const struct hrl_attachment *attachment,
                                      uint64_t limit_ms,
                                      uint64_t *sequence);

/**
 * Reads the whole disk again. Older points stay usable; none is made until it is complete.
 * Statuses: HRL_ERROR_IO, HRL_ERROR_FULL. Since 0.1.
 */
HRL_API hrl_status hrl_attach_resync(const struct hrl_attachment *attachment);

/**
 * Makes a last point if one is clean soon, and ends the session cleanly, waiting for the vault up to
 * `limit_ms`. The programs stay in the kernel and go on marking, so that the next session reads only
 * what changes until then. Afterwards every function but `hrl_attach_free` returns
 * HRL_ERROR_INVALID_INPUT. A second stop does nothing.
 * Statuses: HRL_ERROR_UNAVAILABLE, HRL_ERROR_FENCED, HRL_ERROR_IO. Since 0.1.
 */
HRL_API hrl_status hrl_attach_stop(const struct hrl_attachment *attachment, uint64_t limit_ms);

/**
 * Takes the programs and maps of a state directory out of the kernel; does nothing if there are none.
 * The next attachment compares the whole disk with the replica.
 * Statuses: HRL_ERROR_IO. Since 0.1.
 */
HRL_API hrl_status hrl_attach_detach(const char *state);

/**
 * Frees the attachment; NULL is fine. Without a stop before it ends as if it were killed: the next
 * one goes on from the marks. Since 0.1.
 */
HRL_API void hrl_attach_free(struct hrl_attachment *attachment);

/* ---- Replicas ----
 * View, restore, compare, verify and retain.
 */

/**
 * Flag of `hrl_replica_restore`: replace an existing file, once the restore is complete.
 */
#define HRL_RESTORE_OVERWRITE 1

/**
 * Flag of `hrl_replica_restore`: overwrite all of an existing file or block device.
 */
#define HRL_RESTORE_DEVICE 2

/**
 * Flag of `hrl_replica_compact`: change nothing, and report the effect that a compaction would
 * have.
 */
#define HRL_COMPACT_DRY_RUN 1

/**
 * Flag of `hrl_replica_compact`: fold everything that the policy does not keep, even if that saves
 * few bytes.
 */
#define HRL_COMPACT_ALL 2

/**
 * Flag of `hrl_replica_compact`: also rewrite what was folded under an earlier volume key.
 */
#define HRL_COMPACT_REKEY 4

/**
 * Value for `until_ns` of `hrl_replica_pin`: until it is unpinned.
 */
#define HRL_PIN_FOREVER 0

/**
 * Value for `until_ns` of `hrl_replica_pin`: legal hold, which only `hrl_replica_unpin` with
 * `hold` lifts.
 */
#define HRL_PIN_LEGAL_HOLD -1

/**
 * The extents that changed between two states of a volume, or two checkpoints of a disk that is
 * tracked. All threads may use it at once.
 */
typedef struct hrl_changes hrl_changes;

/**
 * One volume in a vault, as of the version of its catalog that was read last. All threads may use
 * it at once.
 */
typedef struct hrl_replica hrl_replica;

/**
 * Receives the name of an object that is not as it was written, and a sentence about the
 * difference. Both live until it returns.
 */
typedef void (*hrl_finding_fn)(void *user, const char *object, const char *message);

/**
 * Receives one sentence; the text lives until it returns.
 */
typedef void (*hrl_note_fn)(void *user, const char *text);

/**
 * Reports what a restore did.
 */
typedef struct hrl_restore_report {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * Sequence of the restored state.
     */
    uint64_t sequence;
    /**
     * Bytes of data written.
     */
    uint64_t bytes_written;
    /**
     * Size of the volume in bytes.
     */
    uint64_t volume_bytes;
    /**
     * Segments read.
     */
    uint64_t segments;
} hrl_restore_report;

/**
 * A version of a volume's catalog, as `hrl_replica_version` returns it.
 */
typedef struct hrl_catalog_version {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * Its number; 0 for a volume without a catalog.
     */
    uint64_t number;
    /**
     * The last sequence that it lists.
     */
    uint64_t sequence;
    /**
     * Time of its newest record or heartbeat in nanoseconds since 1970; 0 before both.
     */
    int64_t time_ns;
    /**
     * Its text for `hrl_replica_check_at_least`, such as "v12:" and the hash of its object.
     */
    char text[96];
} hrl_catalog_version;

/**
 * Reports what a verification found.
 */
typedef struct hrl_verify_report {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * Segments checked.
     */
    uint64_t segments;
    /**
     * Bytes checked.
     */
    uint64_t bytes;
    /**
     * Recovery points offered.
     */
    uint64_t points;
    /**
     * Objects that are not as they were written; 0 if the replica is sound.
     */
    uint64_t findings;
    /**
     * Objects that the catalog does not list; they do no harm.
     */
    uint64_t strays;
    /**
     * What is ignored, see `hrl_replica_notes`.
     */
    uint64_t notes;
} hrl_verify_report;

/**
 * One run of a change set.
 */
typedef struct hrl_change {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * First byte.
     */
    uint64_t offset;
    /**
     * Bytes.
     */
    uint64_t length;
    /**
     * Whether it reads as zeroes in the later state.
     */
    bool zero;
} hrl_change;

/**
 * Receives one run of a change set; returns false to stop.
 */
typedef bool (*hrl_change_fn)(void *user, const struct hrl_change *change);

/**
 * Reports what a compaction did, or would do in a dry run.
 */
typedef struct hrl_compact_report {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * States beyond the full window that stay.
     */
    uint64_t states_kept;
    /**
     * Segments before.
     */
    uint64_t segments_before;
    /**
     * Segments after.
     */
    uint64_t segments_after;
    /**
     * Folds made.
     */
    uint64_t folds;
    /**
     * Points that the folds dropped.
     */
    uint64_t points_dropped;
    /**
     * Bytes of the segments folded.
     */
    uint64_t bytes_read;
    /**
     * Bytes of the segments that took their place.
     */
    uint64_t bytes_written;
    /**
     * Objects deleted because their grace was over.
     */
    uint64_t objects_deleted;
    /**
     * Objects that wait for the end of their grace.
     */
    uint64_t objects_waiting;
    /**
     * Objects that no catalog lists and that were retired.
     */
    uint64_t strays_retired;
    /**
     * Bytes above the limit of the policy, before the compaction.
     */
    uint64_t over_budget_bytes;
    /**
     * Segments that could not be folded because they are not as they were written.
     */
    uint64_t findings;
    /**
     * Whether another compaction or pin came first. Then compact again.
     */
    bool lost_race;
} hrl_compact_report;

/**
 * Opens a volume of a vault. "VOLUME@EPOCH" is the branch of an ended epoch. Reading never writes
 * to the vault. Free it with `hrl_replica_free`.
 * Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_WRONG_KEY, HRL_ERROR_CORRUPT, HRL_ERROR_UNAVAILABLE.
 * Since 0.1.
 */
HRL_API
hrl_status hrl_replica_open(const struct hrl_vault *vault,
                            const char *name,
                            struct hrl_replica **out);

/**
 * Reads the newest version of the catalog.
 * Statuses: HRL_ERROR_UNAVAILABLE, HRL_ERROR_CORRUPT. Since 0.1.
 */
HRL_API hrl_status hrl_replica_refresh(const struct hrl_replica *replica);

/**
 * Describes the volume, as the vault records it.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API hrl_status hrl_replica_info(const struct hrl_replica *replica, struct hrl_volume_info *info);

/**
 * Passes every recovery point to `each` on the calling thread, oldest first.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API hrl_status hrl_replica_points(const struct hrl_replica *replica, hrl_point_fn each, void *user);

/**
 * Passes the history in stretches, ordered and unordered, to `each` on the calling thread.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API hrl_status hrl_replica_timeline(const struct hrl_replica *replica, hrl_timeline_fn each, void *user);

/**
 * Finds the sequence of a recovery state. `at` is "newest", "newest-good", the label or identity of
 * a point, a sequence, or a time as RFC 3339. A label that exists wins over what else the text may
 * mean, except the first two; "label:TEXT", "point:DIGITS" (the beginning of an identity),
 * "sequence:N" and "time:T" mean nothing but that. "newest-good" is the newest point that checks
 * found good, else the newest application-consistent point, else the newest.
 * Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_NOT_ORDERED (inside a gap), HRL_ERROR_INVALID_INPUT.
 * Since 0.1.
 */
HRL_API hrl_status hrl_replica_resolve(const struct hrl_replica *replica, const char *at, uint64_t *sequence);

/**
 * Opens the volume at the state `at` (see `hrl_replica_resolve`) as a read-only device, without a
 * restore. Free it with `hrl_device_free`. The replica may be freed before.
 * Statuses: those of `hrl_replica_resolve`, HRL_ERROR_CORRUPT, HRL_ERROR_UNAVAILABLE,
 * HRL_ERROR_UNSUPPORTED (tracked without data). Since 0.1.
 */
HRL_API
hrl_status hrl_replica_view(const struct hrl_replica *replica,
                            const char *at,
                            struct hrl_device **out);

/**
 * Writes the volume at the state `at` (see `hrl_replica_resolve`) to a new sparse file. The file
 * gets its name once it is complete and durable. A flag writes over an existing file or device
 * instead. `progress` and `report` may be NULL.
 * Statuses: those of `hrl_replica_view`, HRL_ERROR_ALREADY_EXISTS, HRL_ERROR_FULL, HRL_ERROR_IO,
 * HRL_ERROR_UNAVAILABLE (stopped by `progress`). Since 0.1.
 */
HRL_API
hrl_status hrl_replica_restore(const struct hrl_replica *replica,
                               const char *at,
                               const char *path,
                               uint32_t flags,
                               hrl_progress_fn progress,
                               void *user,
                               struct hrl_restore_report *report);

/**
 * Passes notes on what a reader ignores to `note` on the calling thread: markers that nothing
 * proves, and gates of a mirror. They are counted in `hrl_verify_report`, too.
 * Statuses: HRL_ERROR_UNAVAILABLE. Since 0.1.
 */
HRL_API hrl_status hrl_replica_notes(const struct hrl_replica *replica, hrl_note_fn note, void *user);

/**
 * Describes the catalog version that was read last.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API
hrl_status hrl_replica_version(const struct hrl_replica *replica,
                               struct hrl_catalog_version *version);

/**
 * Checks that the volume has at least what is expected, so that an old copy of a vault is noticed.
 * `expected` is the `text` of an `hrl_catalog_version` that was seen before, a version such as
 * "v12", a time as RFC 3339 (a record or heartbeat of then or later), a sequence, or a point (see
 * `hrl_replica_resolve`).
 * Statuses: HRL_ERROR_DIVERGED (the vault went back, or is an old copy), HRL_ERROR_INVALID_INPUT,
 * HRL_ERROR_UNAVAILABLE. Since 0.1.
 */
HRL_API hrl_status hrl_replica_check_at_least(const struct hrl_replica *replica, const char *expected);

/**
 * Reads and checks everything that the catalog lists: checksums, encryption, chain. Each damaged
 * object is passed to `found` (may be NULL) and counted in `report`. The status is HRL_OK if all
 * was checked, sound or not. `progress` may be NULL.
 * Statuses: HRL_ERROR_UNAVAILABLE. Since 0.1.
 */
HRL_API
hrl_status hrl_replica_verify(const struct hrl_replica *replica,
                              hrl_progress_fn progress,
                              hrl_finding_fn found,
                              void *user,
                              struct hrl_verify_report *report);

/**
 * Frees the handle; NULL is fine. Since 0.1.
 */
HRL_API void hrl_replica_free(struct hrl_replica *replica);

/**
 * Finds the extents written after state `from`, up to state `to` (see `hrl_replica_resolve`). Free
 * it with `hrl_changes_free`.
 * Statuses: those of `hrl_replica_resolve`, HRL_ERROR_CORRUPT, HRL_ERROR_UNAVAILABLE. Since 0.1.
 */
HRL_API
hrl_status hrl_replica_changes(const struct hrl_replica *replica,
                               const char *from,
                               const char *to,
                               struct hrl_changes **out);

/**
 * Returns the number of bytes that changed; 0 for NULL. Since 0.1.
 */
HRL_API uint64_t hrl_changes_total_bytes(const struct hrl_changes *changes);

/**
 * Passes the runs, in order of their offsets, to `each` on the calling thread.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API hrl_status hrl_changes_runs(const struct hrl_changes *changes, hrl_change_fn each, void *user);

/**
 * Writes the changed bytes, each at its own offset, to a new sparse file of the volume's size.
 * `bytes`, which may be NULL, receives their number.
 * Statuses: HRL_ERROR_ALREADY_EXISTS, HRL_ERROR_UNSUPPORTED (tracked without data, or of a tracker),
 * HRL_ERROR_FULL, HRL_ERROR_CORRUPT, HRL_ERROR_IO. Since 0.1.
 */
HRL_API
hrl_status hrl_changes_write_to_file(const struct hrl_changes *changes,
                                     const char *path,
                                     uint64_t *bytes);

/**
 * Returns the reason why changes of a tracker are the whole disk, which lives as long as the handle.
 * NULL if they are exact, and for NULL. Since 0.1.
 */
HRL_API const char *hrl_changes_everything(const struct hrl_changes *changes);

/**
 * Frees the handle; NULL is fine. Since 0.1.
 */
HRL_API void hrl_changes_free(struct hrl_changes *changes);

/**
 * Carries retention out once. Folds segments between the states that the policy keeps, and deletes
 * objects that were replaced longer ago than their grace. It is safe beside sources, restores,
 * views and other compactions.
 * `retention` is text such as "2h all; 24h hourly; 30d daily; bytes 100G"; NULL: the default.
 * `flags` are of HRL_COMPACT_. `scratch` is a directory for temporary files; NULL: that of the
 * system. `progress` and `report` may be NULL. The replica then shows the states that are left.
 * Statuses: HRL_ERROR_INVALID_INPUT (identifies the part that is not understood),
 * HRL_ERROR_UNAVAILABLE (also if `progress` stopped it), HRL_ERROR_FULL, HRL_ERROR_CORRUPT. Since
 * 0.1.
 */
HRL_API
hrl_status hrl_replica_compact(const struct hrl_replica *replica,
                               const char *retention,
                               uint32_t flags,
                               const char *scratch,
                               hrl_progress_fn progress,
                               void *user,
                               struct hrl_compact_report *report);

/**
 * Keeps a recovery point (see `hrl_replica_resolve`) through retention. `until_ns` is a time in
 * nanoseconds since 1970 in UTC, or one of HRL_PIN_. `reason` is for people and may be NULL.
 * Durable when it returns.
 * Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_INVALID_INPUT, HRL_ERROR_FULL (too many pins),
 * HRL_ERROR_UNAVAILABLE. Since 0.1.
 */
HRL_API
hrl_status hrl_replica_pin(const struct hrl_replica *replica,
                           const char *point,
                           int64_t until_ns,
                           const char *reason);

/**
 * Declares the suspicious points of a replica to be good, and removes the pin that their change has
 * set. `text` is for people and may be NULL. `points`, which may be NULL, receives their number.
 * Points that are taken later are suspicious only after another change.
 * Statuses: HRL_ERROR_INVALID_INPUT, HRL_ERROR_UNAVAILABLE. Since 0.1.
 */
HRL_API hrl_status hrl_replica_trust(const struct hrl_replica *replica, const char *text, uint64_t *points);

/**
 * Removes the pin of a point, or with `hold` its legal hold. Neither removes the other. Through a
 * gateway an `admin` alone lifts a legal hold.
 * Statuses: HRL_ERROR_NOT_FOUND (no such point, or no pin), HRL_ERROR_UNAVAILABLE. Since 0.1.
 */
HRL_API hrl_status hrl_replica_unpin(const struct hrl_replica *replica, const char *point, bool hold);

/* ---- Failover ----
 * Continue a volume elsewhere, and take it home.
 */

/**
 * Room for the name of a step.
 */
#define HRL_STEP_CHARS 16

/**
 * Stage of a volume in its life cycle.
 */
typedef enum hrl_stage {
    /**
     * Its source protects it.
     */
    HRL_STAGE_PROTECTED = 1,
    /**
     * A planned failover waits for the source.
     */
    HRL_STAGE_REQUESTED = 2,
    /**
     * The source handed it over and waits.
     */
    HRL_STAGE_HANDED_OVER = 3,
    /**
     * It is served elsewhere; nothing is final.
     */
    HRL_STAGE_FAILED_OVER = 4,
    /**
     * The failover is final.
     */
    HRL_STAGE_COMMITTED = 5,
    /**
     * Committed, and the disk at the old site follows.
     */
    HRL_STAGE_REPROTECTED = 6,
} hrl_stage;

/**
 * A volume that failed over to here, running. All threads may use it at once.
 */
typedef struct hrl_failover hrl_failover;

/**
 * A disk at the old site that follows the volume. One thread at a time uses it.
 */
typedef struct hrl_follower hrl_follower;

/**
 * A step in the life cycle of a volume, as it was recorded.
 */
typedef struct hrl_step {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * Name of the step: "request", "hand-over", "start", "commit", "cancel", "reprotect",
     * "fail-back", "test-begin" or "test-end".
     */
    char kind[HRL_STEP_CHARS];
    /**
     * Identity of the failover or test that it belongs to, in hexadecimal digits.
     */
    char failover[HRL_ID_CHARS];
    /**
     * Time of the step, in nanoseconds since 1970 in UTC.
     */
    int64_t time_ns;
    /**
     * Host that recorded it.
     */
    char host[HRL_LABEL_CHARS];
    /**
     * Sequence of the recovery state that the step is about.
     */
    uint64_t sequence;
    /**
     * Time of that recovery state.
     */
    int64_t state_time_ns;
    /**
     * Recovery point of that state, in hexadecimal digits; empty if the state is at no point.
     */
    char point[HRL_ID_CHARS];
    /**
     * Epoch of the volume after the failover.
     */
    uint32_t epoch;
    /**
     * Name of a test, or a reason.
     */
    char note[HRL_LABEL_CHARS];
} hrl_step;

/**
 * Receives one step, which lives until it returns; returns false to stop.
 */
typedef bool (*hrl_step_fn)(void *user, const struct hrl_step *step);

/**
 * Changes that the source of an ended epoch made after the failover. `hrl_replica_open` with
 * the name "VOLUME@EPOCH" reads them.
 */
typedef struct hrl_branch {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * Ended epoch.
     */
    uint32_t epoch;
    /**
     * Sequence at which the epoch ended.
     */
    uint64_t from_sequence;
    /**
     * Last sequence of the branch.
     */
    uint64_t last_sequence;
    /**
     * Segments of the branch.
     */
    uint64_t segments;
    /**
     * Stored bytes.
     */
    uint64_t stored_bytes;
    /**
     * Time at which the epoch was ended, in nanoseconds since 1970 in UTC.
     */
    int64_t ended_ns;
    /**
     * Host of the source that wrote the branch.
     */
    char source[HRL_LABEL_CHARS];
} hrl_branch;

/**
 * Receives one branch, which lives until it returns; returns false to stop.
 */
typedef bool (*hrl_branch_fn)(void *user, const struct hrl_branch *branch);

/**
 * Options of a failover. Fill it with zeroes, then set the fields that you need; everything is
 * copied.
 */
typedef struct hrl_failover_options {
    /**
     * `sizeof(hrl_failover_options)`.
     */
    size_t struct_bytes;
    /**
     * Recovery state, see `hrl_replica_resolve`. NULL: "newest-good".
     */
    const char *at;
    /**
     * Time to wait for the source to hand over the rest. 0: unplanned.
     */
    uint64_t planned_ms;
    /**
     * Change the point of the failover that is under way in the state directory. Changes written
     * since are dropped.
     */
    bool change_point;
    /**
     * Whether the disk reads as zeroes, as a new sparse file does.
     */
    bool disk_reads_zero;
} hrl_failover_options;

/**
 * Reports how a failover began, and its progress.
 */
typedef struct hrl_failover_status {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * Sequence of the recovery state that the volume was served at.
     */
    uint64_t sequence;
    /**
     * Time of that state, in nanoseconds since 1970 in UTC.
     */
    int64_t state_time_ns;
    /**
     * Recovery point of that state, in hexadecimal digits; empty if the state is at no point.
     */
    char point[HRL_ID_CHARS];
    /**
     * Microseconds from the call of `hrl_failover_start` until the volume could be read and
     * written.
     */
    uint64_t took_us;
    /**
     * Bytes of data that the disk has.
     */
    uint64_t hydrated_bytes;
    /**
     * Bytes of data that the disk must have.
     */
    uint64_t hydrate_bytes;
    /**
     * Whether the disk is complete. Then the replica is not read any more.
     */
    bool whole;
    /**
     * Whether the failover is committed.
     */
    bool committed;
} hrl_failover_status;

/**
 * Reports what catching up did.
 */
typedef struct hrl_catch_up {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * Sequence that the disk was at before, except where it differed.
     */
    uint64_t from_sequence;
    /**
     * Sequence that the disk is at now.
     */
    uint64_t to_sequence;
    /**
     * Bytes in which the disk may have differed.
     */
    uint64_t bytes_diverged;
    /**
     * Bytes written: those that differed, and those that changed between the two sequences.
     */
    uint64_t bytes_written;
} hrl_catch_up;

/**
 * Returns the stage of the volume, as of the catalog that the replica read last. `stage` receives
 * a `hrl_stage`, and `epoch` (may be NULL) the epoch. The newest steps, oldest first, are passed
 * to `each` (may be NULL) on the calling thread.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API
hrl_status hrl_replica_lifecycle(const struct hrl_replica *replica,
                                 uint32_t *stage,
                                 uint32_t *epoch,
                                 hrl_step_fn each,
                                 void *user);

/**
 * Passes the branches of the volume, oldest first, to `each` on the calling thread.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API hrl_status hrl_replica_branches(const struct hrl_replica *replica, hrl_branch_fn each, void *user);

/**
 * Gives a branch up: retention deletes its data. Durable when it returns.
 * Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_UNAVAILABLE. Since 0.1.
 */
HRL_API hrl_status hrl_replica_drop_branch(const struct hrl_replica *replica, uint32_t epoch);

/**
 * Records that the test failover `name` begins at the state `at` (see `hrl_replica_resolve`; NULL:
 * "newest-good"), and keeps that state through retention. `sequence` receives it: open it with
 * `hrl_replica_view` and lay an overlay over it.
 * Statuses: those of `hrl_replica_resolve`, HRL_ERROR_ALREADY_EXISTS (of another host),
 * HRL_ERROR_FULL, HRL_ERROR_UNAVAILABLE. Since 0.1.
 */
HRL_API
hrl_status hrl_replica_begin_test(const struct hrl_replica *replica,
                                  const char *name,
                                  const char *at,
                                  uint64_t *sequence);

/**
 * Records that a test failover is cleaned up.
 * Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_UNAVAILABLE. Since 0.1.
 */
HRL_API hrl_status hrl_replica_end_test(const struct hrl_replica *replica, const char *name);

/**
 * Fails over. Serves the volume writable at a recovery state at once, copies it to the disk behind
 * the reads, and captures every write. `where` has volume, disk (its content is lost), vault,
 * state directory, policy and events, as for a protection. `options` may be NULL. A failover under
 * way in the state directory goes on as it was. Nothing is final before `hrl_failover_commit`.
 * Free it with `hrl_failover_free`.
 * Statuses: HRL_ERROR_FENCED (another failover), HRL_ERROR_NOT_FOUND and HRL_ERROR_NOT_ORDERED
 * (the state), HRL_ERROR_UNAVAILABLE (the vault, or the source did not hand over),
 * HRL_ERROR_INVALID_INPUT, HRL_ERROR_WRONG_KEY, HRL_ERROR_IO. Since 0.1.
 */
HRL_API
hrl_status hrl_failover_start(const struct hrl_protection_options *where,
                              const struct hrl_failover_options *options,
                              struct hrl_failover **out);

/**
 * Reports how the failover began, and its progress. `stats` may be NULL.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API
hrl_status hrl_failover_get_status(const struct hrl_failover *failover,
                                   struct hrl_failover_status *status,
                                   struct hrl_stats *stats);

/**
 * Returns the volume as a device: writes to it are captured. Free it with `hrl_device_free`,
 * before the failover is ended.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API hrl_status hrl_failover_device(const struct hrl_failover *failover, struct hrl_device **out);

/**
 * Marks a crash-consistent point; `label` and `point` may be NULL.
 * Statuses: those of `hrl_protection_mark`. Since 0.1.
 */
HRL_API
hrl_status hrl_failover_mark(const struct hrl_failover *failover,
                             const char *label,
                             struct hrl_point *point);

/**
 * Makes the failover final. The old source is fenced, its later writes are a branch, and the
 * writes here are shipped. Durable when it returns; may be repeated.
 * Statuses: HRL_ERROR_FENCED (cancelled, or another came first), HRL_ERROR_UNAVAILABLE. Since 0.1.
 */
HRL_API hrl_status hrl_failover_commit(const struct hrl_failover *failover);

/**
 * Waits until everything captured before the call is in the vault; not before the commit.
 * `sequence` may be NULL.
 * Statuses: HRL_ERROR_UNAVAILABLE (not within `limit_ms`), HRL_ERROR_FENCED. Since 0.1.
 */
HRL_API
hrl_status hrl_failover_wait_replicated(const struct hrl_failover *failover,
                                        uint64_t limit_ms,
                                        uint64_t *sequence);

/**
 * Waits until the disk is complete.
 * Statuses: HRL_ERROR_UNAVAILABLE (not within `limit_ms`). Since 0.1.
 */
HRL_API hrl_status hrl_failover_wait_hydrated(const struct hrl_failover *failover, uint64_t limit_ms);

/**
 * Gives the failover up before the commit. Writes to it are dropped, and the source goes on as
 * before. Afterwards only `hrl_failover_free` is of use.
 * Statuses: HRL_ERROR_INVALID_INPUT (it was committed), HRL_ERROR_UNAVAILABLE. Since 0.1.
 */
HRL_API hrl_status hrl_failover_cancel(const struct hrl_failover *failover);

/**
 * Ends the session cleanly. `hrl_failover_start` with the same state directory goes on. Every
 * writer must be gone.
 * Statuses: those of `hrl_protection_stop`. Since 0.1.
 */
HRL_API hrl_status hrl_failover_stop(const struct hrl_failover *failover, uint64_t limit_ms);

/**
 * Ends the session and leaves the disk as a plain one, for a protection with the same state
 * directory.
 * Statuses: HRL_ERROR_UNAVAILABLE (the disk is not complete; the session is ended), and those of
 * `hrl_protection_stop`. Since 0.1.
 */
HRL_API hrl_status hrl_failover_detach(const struct hrl_failover *failover, uint64_t limit_ms);

/**
 * Frees the handle; NULL is fine. A failover that was not ended is left as by a crash: it can go
 * on. Since 0.1.
 */
HRL_API void hrl_failover_free(struct hrl_failover *failover);

/**
 * Gives up a failover that is not committed and whose process has ended.
 * Statuses: HRL_ERROR_FENCED (it runs), HRL_ERROR_INVALID_INPUT (it was committed),
 * HRL_ERROR_UNAVAILABLE. Since 0.1.
 */
HRL_API
hrl_status hrl_vault_cancel_failover(const struct hrl_vault *vault,
                                     const char *volume,
                                     const char *state);

/**
 * Gives up the failover that is under way, after its site and state directory were lost.
 * Statuses: HRL_ERROR_NOT_FOUND (none is under way), HRL_ERROR_UNAVAILABLE. Since 0.1.
 */
HRL_API hrl_status hrl_vault_abandon_failover(const struct hrl_vault *vault, const char *volume);

/**
 * Makes the disk of an old source follow the volume. `where` has volume, disk, vault, and the
 * state directory of the agent that protected the disk and has ended. Its policy and events are
 * those of `hrl_follower_fail_back`. First the spool of the agent is handed in to the branch of
 * its epoch. Free it with `hrl_follower_free`.
 * Statuses: HRL_ERROR_INVALID_INPUT (no agent's directory, or it still has the volume),
 * HRL_ERROR_FENCED (it runs), HRL_ERROR_CHANGED, HRL_ERROR_UNAVAILABLE, HRL_ERROR_DIVERGED (the disk
 * followed what the vault has lost). Since 0.1.
 */
HRL_API hrl_status hrl_follower_open(const struct hrl_protection_options *where, struct hrl_follower **out);

/**
 * Brings the disk to the state `at` (NULL: "newest"), writing only the blocks that differ, and
 * records that it follows. May be called again and again. `progress` and `done` may be NULL.
 * Statuses: those of `hrl_replica_resolve`, HRL_ERROR_IO, HRL_ERROR_UNAVAILABLE (also if
 * `progress` stopped it): call it again. Since 0.1.
 */
HRL_API
hrl_status hrl_follower_catch_up(struct hrl_follower *follower,
                                 const char *at,
                                 hrl_progress_fn progress,
                                 void *user,
                                 struct hrl_catch_up *done);

/**
 * Takes the volume home. Catches up, has the other site hand over within `planned_ms`, catches up
 * with the rest, commits, and protects the disk. `planned_ms` of 0 does not ask the other site,
 * because it is gone. Afterwards only `hrl_follower_free` is of use here. `where` is that of
 * `hrl_follower_open`. `progress` and `done` may be NULL. Free the protection as one of
 * `hrl_protection_open`.
 * Statuses: those of `hrl_follower_catch_up` and `hrl_protection_open`. Since 0.1.
 */
HRL_API
hrl_status hrl_follower_fail_back(struct hrl_follower *follower,
                                  const struct hrl_protection_options *where,
                                  uint64_t planned_ms,
                                  hrl_progress_fn progress,
                                  void *user,
                                  struct hrl_catch_up *done,
                                  struct hrl_protection **out);

/**
 * Frees the handle; NULL is fine. Since 0.1.
 */
HRL_API void hrl_follower_free(struct hrl_follower *follower);

/* ---- Devices ----
 * Disks: files, memory, overlays, and your own.
 */

/**
 * Flag of `hrl_device_open_file`: open for reads only.
 */
#define HRL_OPEN_READ_ONLY 1

/**
 * Flag of `hrl_device_open_file`: take an advisory lock, and on a block device the claim that a
 * mount takes too.
 */
#define HRL_OPEN_EXCLUSIVE 2

/**
 * Flag of `hrl_device_open_file`: use the page cache, even if direct I/O is possible.
 */
#define HRL_OPEN_BUFFERED 4

/**
 * Flag of writes: the data is on stable storage when the call returns.
 */
#define HRL_DURABLE 1

/**
 * Flag of `hrl_device_zero`: the blocks stay allocated.
 */
#define HRL_KEEP_ALLOCATED 2

/**
 * A disk: a file or block device, memory, a protected volume, a view of a replica, an overlay, or
 * one of your own. All threads may use it at once.
 */
typedef struct hrl_device hrl_device;

/**
 * A disk of your own. The functions return 0, or an errno such as EIO. They are called from any
 * thread, several at once, and must not unwind.
 * The contract is that of the crate's `BlockDevice`. A read that starts after a write returned
 * sees it. Writes that returned before a flush began survive a power failure once the flush
 * returned. A failed write changes nothing outside its range. Offsets and lengths are within the
 * disk, in bytes, and may be unaligned.
 */
typedef struct hrl_device_callbacks {
    /**
     * `sizeof(hrl_device_callbacks)`, so that later versions can add to it.
     */
    size_t struct_bytes;
    /**
     * Size of the disk: a multiple of 512 above 0, which never changes.
     */
    uint64_t size_bytes;
    /**
     * Unit that is written without tearing: a power of two from 512 to 65536.
     */
    uint32_t block_bytes;
    /**
     * Whether changes are refused.
     */
    bool read_only;
    /**
     * Name for errors; copied. NULL: "device".
     */
    const char *name;
    /**
     * Fills `buffer`. Needed.
     */
    int32_t (*read)(void *user, uint64_t offset, uint8_t *buffer, size_t length);
    /**
     * Writes `data`; with HRL_DURABLE in `flags` it is on stable storage afterwards. Needed unless
     * `read_only`.
     */
    int32_t (*write)(void *user, uint64_t offset, const uint8_t *data, size_t length, uint32_t flags);
    /**
     * Makes a range read as zeroes; `flags` of HRL_DURABLE and HRL_KEEP_ALLOCATED. NULL: zeroes
     * are written.
     */
    int32_t (*zero)(void *user, uint64_t offset, uint64_t length, uint32_t flags);
    /**
     * Drops a range that is not needed, and makes it read as zeroes. NULL: discards do nothing.
     */
    int32_t (*discard)(void *user, uint64_t offset, uint64_t length);
    /**
     * Makes every finished write durable. Needed unless `read_only`.
     */
    int32_t (*flush)(void *user);
    /**
     * Called once, when nothing uses the disk any more. NULL: nothing.
     */
    void (*free)(void *user);
} hrl_device_callbacks;

/**
 * Receives one run of a disk's allocation map; returns false to stop.
 */
typedef bool (*hrl_allocation_fn)(void *user, uint64_t offset, uint64_t length, bool allocated);

/**
 * Opens a regular file or block device. `create_bytes` above 0 creates a sparse file of this size;
 * an existing file must have it. Free the device with `hrl_device_free`.
 * Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_INVALID_INPUT (size 0 or no multiple of 512 bytes),
 * HRL_ERROR_FENCED (in use by another process), HRL_ERROR_ALREADY_EXISTS (another size),
 * HRL_ERROR_IO. Since 0.1.
 */
HRL_API
hrl_status hrl_device_open_file(const char *path,
                                uint32_t flags,
                                uint64_t create_bytes,
                                struct hrl_device **out);

/**
 * Makes a sparse disk in memory. `size_bytes` is a multiple of 512 above 0. Free it with
 * `hrl_device_free`.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API hrl_status hrl_device_new_memory(uint64_t size_bytes, struct hrl_device **out);

/**
 * Makes a writable disk of a read-only one. Reads see `base`; changes go to `scratch`, which has
 * the same size. The content of `scratch` is not read before it was written. Both may be freed
 * afterwards.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API
hrl_status hrl_device_new_overlay(const struct hrl_device *base,
                                  const struct hrl_device *scratch,
                                  struct hrl_device **out);

/**
 * Makes a device of your functions. `callbacks` is copied; each function receives `user`. Free it
 * with `hrl_device_free`. `free` of the callbacks is called when the last user (a protection, a
 * server) is gone too.
 * Statuses: HRL_ERROR_INVALID_INPUT; then `free` is not called. Since 0.1.
 */
HRL_API
hrl_status hrl_device_from_callbacks(const struct hrl_device_callbacks *callbacks,
                                     void *user,
                                     struct hrl_device **out);

/**
 * Returns the size in bytes; 0 for NULL. Since 0.1.
 */
HRL_API uint64_t hrl_device_size_bytes(const struct hrl_device *device);

/**
 * Returns the unit that is written without tearing, in bytes; 0 for NULL. Since 0.1.
 */
HRL_API uint32_t hrl_device_block_bytes(const struct hrl_device *device);

/**
 * Returns whether changes are refused; true for NULL. Since 0.1.
 */
HRL_API bool hrl_device_is_read_only(const struct hrl_device *device);

/**
 * Returns the name, for example a path. Valid as long as the device lives; empty for NULL. Since
 * 0.1.
 */
HRL_API const char *hrl_device_name(const struct hrl_device *device);

/**
 * Fills `buffer` from `offset`.
 * Statuses: HRL_ERROR_INVALID_INPUT (outside the disk), HRL_ERROR_IO, HRL_ERROR_CORRUPT and
 * HRL_ERROR_UNAVAILABLE (views). Since 0.1.
 */
HRL_API
hrl_status hrl_device_read(const struct hrl_device *device,
                           uint64_t offset,
                           uint8_t *buffer,
                           size_t length);

/**
 * Writes `data` at `offset`; with HRL_DURABLE in `flags` it is on stable storage afterwards. On a
 * protected volume the bytes are copied once, before anything else. So journal and disk are the
 * same, even if `data` changes meanwhile.
 * Statuses: HRL_ERROR_INVALID_INPUT (outside the disk), HRL_ERROR_READ_ONLY, HRL_ERROR_POISONED,
 * HRL_ERROR_FULL, HRL_ERROR_IO. Since 0.1.
 */
HRL_API
hrl_status hrl_device_write(const struct hrl_device *device,
                            uint64_t offset,
                            const uint8_t *data,
                            size_t length,
                            uint32_t flags);

/**
 * Makes a range read as zeroes; `flags` of HRL_DURABLE and HRL_KEEP_ALLOCATED.
 * Statuses: those of `hrl_device_write`. Since 0.1.
 */
HRL_API
hrl_status hrl_device_zero(const struct hrl_device *device,
                           uint64_t offset,
                           uint64_t length,
                           uint32_t flags);

/**
 * Informs the disk that a range is not needed. `effect`, which may be NULL, receives the effect, a
 * `hrl_discarded`.
 * Statuses: those of `hrl_device_write`. Since 0.1.
 */
HRL_API
hrl_status hrl_device_discard(const struct hrl_device *device,
                              uint64_t offset,
                              uint64_t length,
                              uint32_t *effect);

/**
 * Makes every write that returned durable. A failed flush is final: HRL_ERROR_POISONED ever after.
 * Statuses: HRL_ERROR_IO, HRL_ERROR_POISONED. Since 0.1.
 */
HRL_API hrl_status hrl_device_flush(const struct hrl_device *device);

/**
 * Passes the allocation runs of a range, in order, to `visit` on the calling thread. A run that is
 * not allocated reads as zeroes.
 * Statuses: HRL_ERROR_INVALID_INPUT, HRL_ERROR_IO. Since 0.1.
 */
HRL_API
hrl_status hrl_device_allocation(const struct hrl_device *device,
                                 uint64_t offset,
                                 uint64_t length,
                                 hrl_allocation_fn visit,
                                 void *user);

/**
 * Frees the handle; NULL is fine. Other users of the disk (a protection, a server, an overlay) go
 * on. Since 0.1.
 */
HRL_API void hrl_device_free(struct hrl_device *device);

/* ---- Taps ----
 * For agents that do their own I/O: ask, write, report.
 */

/**
 * Effect of a discard.
 */
typedef enum hrl_discarded {
    /**
     * The range reads as zeroes now.
     */
    HRL_DISCARDED_ZEROES = 0,
    /**
     * The range reads as anything until it is written again.
     */
    HRL_DISCARDED_UNDEFINED = 1,
    /**
     * Nothing happened.
     */
    HRL_DISCARDED_IGNORED = 2,
} hrl_discarded;

/**
 * Page-aligned memory, good for direct I/O. Used by one thread at a time.
 */
typedef struct hrl_buffer hrl_buffer;

/**
 * Gives each change of a volume its place in the write order, for agents with their own I/O path.
 * Ask before you change the disk (`hrl_tap_begin`), change it, and report the result
 * (`hrl_tap_complete_write` and its like). All threads may use it at once.
 */
typedef struct hrl_tap hrl_tap;

/**
 * Permission to change these bytes of the disk. Ends with exactly one of the `hrl_tap_complete_`
 * functions, `hrl_tap_fail` and `hrl_tap_cancel`, on any thread. It is passed by value, and so
 * never grows.
 */
typedef struct hrl_ticket {
    /**
     * First byte that may be changed.
     */
    uint64_t offset;
    /**
     * Bytes that may be changed.
     */
    uint64_t length;
} hrl_ticket;

/**
 * Makes a buffer of `length` zero bytes. Free it with `hrl_buffer_free`, unless
 * `hrl_tap_complete_buffer` took it.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API hrl_status hrl_buffer_new(size_t length, struct hrl_buffer **out);

/**
 * Makes a buffer with a copy of `data`. As `hrl_buffer_new` otherwise. Since 0.1.
 */
HRL_API hrl_status hrl_buffer_copy(const uint8_t *data, size_t length, struct hrl_buffer **out);

/**
 * Returns the memory of the buffer. Valid as long as the buffer lives; NULL for NULL. Since 0.1.
 */
HRL_API uint8_t *hrl_buffer_data(struct hrl_buffer *buffer);

/**
 * Returns the length in bytes; 0 for NULL. Since 0.1.
 */
HRL_API size_t hrl_buffer_length(const struct hrl_buffer *buffer);

/**
 * Frees a buffer; NULL is fine. Since 0.1.
 */
HRL_API void hrl_buffer_free(struct hrl_buffer *buffer);

/**
 * Waits for permission to change `length` bytes at `offset`. It waits while an overlapping change
 * is in flight, and at the first write to a region until the dirty map has it. If the policy says
 * `when_full = block`, it also waits while the queue is full. Two tickets that overlap in blocks
 * of 4096 bytes exclude each other: a thread with one that asks for the other waits for itself.
 * Statuses: HRL_ERROR_INVALID_INPUT (empty, or outside the volume). Since 0.1.
 */
HRL_API
hrl_status hrl_tap_begin(const struct hrl_tap *tap,
                         uint64_t offset,
                         uint64_t length,
                         struct hrl_ticket *ticket);

/**
 * Does the same as `hrl_tap_begin` without waiting. HRL_PENDING means that there is no ticket yet.
 * Then `wake(user)` is called exactly once, from any thread, when it is worth asking again, at the
 * latest when the protection ends. It may free `user`. It must return soon and must not call the
 * tap. Since 0.1.
 */
HRL_API
hrl_status hrl_tap_try_begin(const struct hrl_tap *tap,
                             uint64_t offset,
                             uint64_t length,
                             void (*wake)(void *user),
                             void *user,
                             struct hrl_ticket *ticket);

/**
 * Reports that the disk took the write. `data` are the bytes that are now on it, as long as the
 * ticket; they are copied. They must be the memory that was written, unchanged since. First copy
 * memory that others may change meanwhile, such as a guest's, into a buffer:
 * `hrl_tap_complete_buffer`. Never waits. `sequence`, which may be NULL, receives the newest
 * sequence.
 * Statuses: HRL_ERROR_INVALID_INPUT (no such change in flight, or another length; the ticket
 * stays). Since 0.1.
 */
HRL_API
hrl_status hrl_tap_complete_write(const struct hrl_tap *tap,
                                  struct hrl_ticket ticket,
                                  const uint8_t *data,
                                  size_t length,
                                  uint64_t *sequence);

/**
 * Reports the bytes of `buffer` as written, without a copy. The buffer belongs to the library
 * afterwards, even if the call failed. As `hrl_tap_complete_write` otherwise. Since 0.1.
 */
HRL_API
hrl_status hrl_tap_complete_buffer(const struct hrl_tap *tap,
                                   struct hrl_ticket ticket,
                                   struct hrl_buffer *buffer,
                                   uint64_t *sequence);

/**
 * Reports that the range reads as zeroes now. As `hrl_tap_complete_write` otherwise. Since 0.1.
 */
HRL_API
hrl_status hrl_tap_complete_zero(const struct hrl_tap *tap,
                                 struct hrl_ticket ticket,
                                 uint64_t *sequence);

/**
 * Reports that the range was discarded, with this effect. As `hrl_tap_complete_write` otherwise.
 * Since 0.1.
 */
HRL_API
hrl_status hrl_tap_complete_discard(const struct hrl_tap *tap,
                                    struct hrl_ticket ticket,
                                    uint32_t effect,
                                    uint64_t *sequence);

/**
 * Reports that the disk failed the change. Its content is unknown there and will be read again;
 * until then there are no points.
 * Statuses: HRL_ERROR_INVALID_INPUT (no such change in flight). Since 0.1.
 */
HRL_API hrl_status hrl_tap_fail(const struct hrl_tap *tap, struct hrl_ticket ticket);

/**
 * Reports that the disk was not touched.
 * Statuses: HRL_ERROR_INVALID_INPUT (no such change in flight). Since 0.1.
 */
HRL_API hrl_status hrl_tap_cancel(const struct hrl_tap *tap, struct hrl_ticket ticket);

/**
 * Records that the writer flushed. Call it after the disk's own flush returned.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API hrl_status hrl_tap_flush(const struct hrl_tap *tap, uint64_t *sequence);

/**
 * Frees the handle; NULL is fine. The protection goes on. Since 0.1.
 */
HRL_API void hrl_tap_free(struct hrl_tap *tap);

/* ---- Journal ----
 * Segments, and conversion to and from other formats.
 */

/**
 * Kind of a record.
 */
typedef enum hrl_record_kind {
    /**
     * Data was written.
     */
    HRL_RECORD_WRITE = 0,
    /**
     * The range was made to read as zeroes.
     */
    HRL_RECORD_ZERO = 1,
    /**
     * The range was discarded.
     */
    HRL_RECORD_DISCARD = 2,
    /**
     * The range changed; its data was not captured.
     */
    HRL_RECORD_TOUCH = 3,
    /**
     * The writer flushed.
     */
    HRL_RECORD_FLUSH = 4,
    /**
     * A recovery point.
     */
    HRL_RECORD_MARK = 5,
    /**
     * Unordered from here.
     */
    HRL_RECORD_UNORDERED_BEGIN = 6,
    /**
     * Ordered again.
     */
    HRL_RECORD_UNORDERED_END = 7,
} hrl_record_kind;

/**
 * Kind of a segment.
 */
typedef enum hrl_segment_kind {
    /**
     * Changes in write order.
     */
    HRL_SEGMENT_LOG = 0,
    /**
     * Several segments as one, superseded data dropped.
     */
    HRL_SEGMENT_MERGED = 1,
    /**
     * All of a volume's data as of one sequence, in order of offsets.
     */
    HRL_SEGMENT_IMAGE = 2,
} hrl_segment_kind;

/**
 * A closed segment of a journal. All threads may use it at once.
 */
typedef struct hrl_segment hrl_segment;

/**
 * Describes what a segment contains.
 */
typedef struct hrl_segment_summary {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * A `hrl_segment_kind`.
     */
    uint32_t kind;
    /**
     * Epoch of the source.
     */
    uint32_t epoch;
    /**
     * Identity of the volume, in hexadecimal digits.
     */
    char volume[HRL_ID_CHARS];
    /**
     * First sequence covered.
     */
    uint64_t first_sequence;
    /**
     * Last sequence covered.
     */
    uint64_t last_sequence;
    /**
     * Time of the first record, in nanoseconds since 1970 in UTC.
     */
    int64_t first_time_ns;
    /**
     * Time of the last record.
     */
    int64_t last_time_ns;
    /**
     * Number of records.
     */
    uint64_t records;
    /**
     * Bytes of data in write records.
     */
    uint64_t data_bytes;
    /**
     * Bytes of the whole file.
     */
    uint64_t stored_bytes;
    /**
     * Recovery points in it.
     */
    uint64_t points;
    /**
     * Chain hash of the segment before, in hexadecimal digits.
     */
    char previous[HRL_HASH_CHARS];
    /**
     * Chain hash of the segment.
     */
    char chain[HRL_HASH_CHARS];
} hrl_segment_summary;

/**
 * A record of a segment. The data lives until the callback returns.
 */
typedef struct hrl_record {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * Its place in the write order.
     */
    uint64_t sequence;
    /**
     * Time of the capture, in nanoseconds since 1970 in UTC.
     */
    int64_t time_ns;
    /**
     * A `hrl_record_kind`.
     */
    uint32_t kind;
    /**
     * First byte of the extent; 0 for a record without an extent.
     */
    uint64_t offset;
    /**
     * Bytes of the extent; 0 for a record without an extent.
     */
    uint64_t length;
    /**
     * Data of a write, `length` bytes; NULL for other records.
     */
    const uint8_t *data;
} hrl_record;

/**
 * Receives one record; returns false to stop.
 */
typedef bool (*hrl_record_fn)(void *user, const struct hrl_record *record);

/**
 * Reports what a conversion wrote.
 */
typedef struct hrl_convert_report {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * Files written.
     */
    uint64_t files;
    /**
     * Writes in them.
     */
    uint64_t writes;
    /**
     * Bytes of data in them.
     */
    uint64_t bytes;
} hrl_convert_report;

/**
 * Opens a `.hrl` segment. The file must not change while it is open. An encrypted one is opened
 * with the keys of `replica`, which may be NULL. Free it with `hrl_segment_free`.
 * Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_CORRUPT, HRL_ERROR_WRONG_KEY, HRL_ERROR_UNSUPPORTED.
 * Since 0.1.
 */
HRL_API
hrl_status hrl_segment_open(const char *path,
                            const struct hrl_replica *replica,
                            struct hrl_segment **out);

/**
 * Describes what the segment contains.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API
hrl_status hrl_segment_get_summary(const struct hrl_segment *segment,
                                   struct hrl_segment_summary *summary);

/**
 * Passes every record, in the order of the segment, to `each` on the calling thread.
 * Statuses: HRL_ERROR_CORRUPT, HRL_ERROR_UNSUPPORTED. Since 0.1.
 */
HRL_API hrl_status hrl_segment_records(const struct hrl_segment *segment, hrl_record_fn each, void *user);

/**
 * Checks every byte of the segment.
 * Statuses: HRL_ERROR_CORRUPT, HRL_ERROR_WRONG_KEY. Since 0.1.
 */
HRL_API hrl_status hrl_segment_verify(const struct hrl_segment *segment);

/**
 * Frees the handle; NULL is fine. Since 0.1.
 */
HRL_API void hrl_segment_free(struct hrl_segment *segment);

/**
 * Writes native segments as a chain of Hyper-V logs ([MS-HRL] version 2) into a new directory.
 * `inputs` are files, or directories that are searched for `.hrl` files. `note` (may be NULL)
 * receives a sentence for each thing that the format cannot carry. `replica` gives the keys, and
 * may be NULL; so may `report`.
 * Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_CORRUPT, HRL_ERROR_WRONG_KEY, HRL_ERROR_ALREADY_EXISTS,
 * HRL_ERROR_FULL, HRL_ERROR_IO. Since 0.1.
 */
HRL_API
hrl_status hrl_convert_to_hyperv(const char *const *inputs,
                                 size_t input_count,
                                 const char *directory,
                                 const struct hrl_replica *replica,
                                 hrl_note_fn note,
                                 void *user,
                                 struct hrl_convert_report *report);

/**
 * Writes native segments as a log of the kernel's dm-log-writes (version 1) into a new file.
 * HRL_ERROR_UNSUPPORTED if a change is not of whole sectors of 512 bytes. As
 * `hrl_convert_to_hyperv` otherwise. Since 0.1.
 */
HRL_API
hrl_status hrl_convert_to_log_writes(const char *const *inputs,
                                     size_t input_count,
                                     const char *file,
                                     const struct hrl_replica *replica,
                                     hrl_note_fn note,
                                     void *user,
                                     struct hrl_convert_report *report);

/**
 * Writes a chain of Hyper-V logs, or one log of dm-log-writes, as one native segment into a new
 * file. As `hrl_convert_to_hyperv` otherwise. Since 0.1.
 */
HRL_API
hrl_status hrl_convert_to_native(const char *const *inputs,
                                 size_t input_count,
                                 const char *file,
                                 struct hrl_convert_report *report);

/* ---- Maintenance ----
 * Bring back what was deleted, and purge what is due.
 */

/**
 * Reports what came back of a volume, or would.
 */
typedef struct hrl_undeleted {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * Name of the volume; empty for objects of no volume.
     */
    char volume[HRL_NAME_CHARS];
    /**
     * Objects that were deleted and are back.
     */
    uint64_t objects;
    /**
     * Their bytes.
     */
    uint64_t bytes;
    /**
     * Objects that gave way, because they had taken the names of deleted ones.
     */
    uint64_t replaced;
    /**
     * Objects that are gone all the same.
     */
    uint64_t lost;
    /**
     * Whether the volume had been shredded.
     */
    bool was_shredded;
    /**
     * Points that the catalog lists again.
     */
    uint64_t points;
    /**
     * Segments that the catalog lists again.
     */
    uint64_t segments;
    /**
     * Pins and legal holds in force again.
     */
    uint64_t pins;
    /**
     * Folds that stay, because what they were made of is gone.
     */
    uint64_t folds_left;
    /**
     * Catalog version that says it again; 0 if it needs none, or in a dry run.
     */
    uint64_t version;
    /**
     * HRL_OK, or the status of the error of this volume.
     */
    hrl_status status;
    /**
     * That error as a sentence, cut if it does not fit; empty without an error.
     */
    char failure[HRL_LABEL_CHARS];
} hrl_undeleted;

/**
 * Receives what came back of one volume, which lives until it returns; returns false to stop.
 */
typedef bool (*hrl_undeleted_fn)(void *user, const struct hrl_undeleted *volume);

/**
 * Brings back what was deleted from the vault at `url` since a time, and passes the result of every
 * volume to `each`. With `dry_run` nothing is changed. `url` is what a gateway would be given.
 * Without the key of an encrypted volume objects come back, and folds are not undone. Run it again
 * after any failure.
 * Statuses: HRL_ERROR_INVALID_INPUT (also a gateway), HRL_ERROR_NOT_FOUND, HRL_ERROR_UNAVAILABLE,
 * HRL_ERROR_IO. Since 0.1.
 */
HRL_API
hrl_status hrl_vault_undelete(const char *url,
                              const struct hrl_key *key,
                              int64_t since_ns,
                              bool dry_run,
                              hrl_undeleted_fn each,
                              void *user);

/**
 * Sets for how long what is deleted from the vault at `url` can be brought back; 0: not at all.
 * What is deleted already keeps its own delay.
 * Statuses: HRL_ERROR_INVALID_INPUT (also a gateway), HRL_ERROR_NOT_FOUND, HRL_ERROR_UNAVAILABLE,
 * HRL_ERROR_READ_ONLY, HRL_ERROR_IO. Since 0.1.
 */
HRL_API hrl_status hrl_vault_set_deletion_delay(const char *url, uint64_t delay_ms);

/**
 * Maintains the vault at `url` once: retention by `policy` (NULL: none) of the volumes that the key
 * opens, old catalog versions, and the purge of what was deleted and whose delay is over. `failed`,
 * which may be NULL, is the number of volumes that could not be maintained.
 * Statuses: HRL_ERROR_INVALID_INPUT (also a gateway, or a bad policy), HRL_ERROR_NOT_FOUND,
 * HRL_ERROR_UNAVAILABLE (also a clock that jumped), HRL_ERROR_IO. Since 0.1.
 */
HRL_API
hrl_status hrl_vault_maintain(const char *url,
                              const struct hrl_key *key,
                              const char *policy,
                              uint64_t *failed);

/* ---- Mirrors ----
 * Make one vault follow another.
 */

/**
 * Makes one vault follow another. All threads may use it at once; runs wait for each other.
 */
typedef struct hrl_mirror hrl_mirror;

/**
 * Returns whether the run goes on. Called from any thread.
 */
typedef bool (*hrl_go_on_fn)(void *user);

/**
 * The result of a mirror's run for one volume.
 */
typedef struct hrl_mirrored_volume {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * Name of the volume.
     */
    char volume[HRL_NAME_CHARS];
    /**
     * Newest catalog version of the source.
     */
    uint64_t source_version;
    /**
     * Newest catalog version of the target, which is never above that of the source.
     */
    uint64_t version;
    /**
     * Time by which the target is behind, in milliseconds.
     */
    uint64_t lag_ms;
    /**
     * Objects copied.
     */
    uint64_t objects_copied;
    /**
     * Bytes copied.
     */
    uint64_t bytes_copied;
    /**
     * Objects deleted.
     */
    uint64_t objects_deleted;
    /**
     * Objects that the source lacks.
     */
    uint64_t source_lacks;
    /**
     * HRL_OK, or the status of the error that ended the run for this volume.
     */
    hrl_status status;
    /**
     * That error as a sentence, cut if it does not fit; empty without an error.
     */
    char failure[HRL_LABEL_CHARS];
} hrl_mirrored_volume;

/**
 * Receives the result for one volume, which lives until it returns; returns false to stop.
 */
typedef bool (*hrl_mirrored_fn)(void *user, const struct hrl_mirrored_volume *volume);

/**
 * Makes a mirror that brings `target` to the state of `source`, without the keys of its volumes.
 * `count` names in `volumes` select volumes; 0 selects all. `scratch` is a directory for copies of
 * objects above 32 MiB; NULL: that of the system. The vaults may be freed afterwards. Run one
 * mirror at a time for each target. Free it with `hrl_mirror_free`.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API
hrl_status hrl_mirror_new(const struct hrl_vault *source,
                          const struct hrl_vault *target,
                          const char *const *volumes,
                          size_t count,
                          const char *scratch,
                          struct hrl_mirror **out);

/**
 * Catches up once, and passes the result of every volume to `each` on the calling thread. Call it
 * again to follow. A failure of one volume is in its result and does not stop the others. `go_on`
 * (NULL: always) is asked now and then; false ends the run, which the next one continues.
 * Statuses: HRL_ERROR_UNAVAILABLE, HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API
hrl_status hrl_mirror_run(const struct hrl_mirror *mirror,
                          hrl_go_on_fn go_on,
                          hrl_mirrored_fn each,
                          void *user);

/**
 * Frees the mirror; NULL is fine. Since 0.1.
 */
HRL_API void hrl_mirror_free(struct hrl_mirror *mirror);

/* ---- Trackers ----
 * Changed blocks of disks in use, without data.
 */

/**
 * The checkpoints of a disk or partition that is tracked. All threads may use it at once, and any
 * number of processes.
 */
typedef struct hrl_tracker hrl_tracker;

/**
 * A named instant of a disk that is tracked.
 */
typedef struct hrl_checkpoint {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * Its name.
     */
    char name[HRL_NAME_CHARS];
    /**
     * Time at which it was made, in nanoseconds since 1970 in UTC.
     */
    int64_t time_ns;
    /**
     * Size of the disk in bytes.
     */
    uint64_t disk_bytes;
    /**
     * Bytes that changed since the checkpoint before it, or since tracking began.
     */
    uint64_t bytes_changed;
    /**
     * Reason why those are the whole disk; empty if they are exact.
     */
    char everything[HRL_LABEL_CHARS];
    /**
     * Whether changes since it are known. They are not if the machine has booted since.
     */
    bool is_current;
} hrl_checkpoint;

/**
 * Receives one checkpoint, which lives until it returns; returns false to stop.
 */
typedef bool (*hrl_checkpoint_fn)(void *user, const struct hrl_checkpoint *checkpoint);

/**
 * How a disk is tracked.
 */
typedef struct hrl_tracker_status {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * The kernel's name of the disk, such as "sda".
     */
    char disk[HRL_NAME_CHARS];
    /**
     * Size of the disk in bytes.
     */
    uint64_t disk_bytes;
    /**
     * Time at which tracking began, in nanoseconds since 1970 in UTC.
     */
    int64_t since_ns;
    /**
     * Memory of the maps in bytes. It is never swapped.
     */
    uint64_t memory_bytes;
    /**
     * Bytes that changed since the last checkpoint, or since tracking began.
     */
    uint64_t bytes_changed;
    /**
     * Reason why it is not tracked any more; empty if it is.
     */
    char lost[HRL_LABEL_CHARS];
} hrl_tracker_status;

/**
 * Begins to track which blocks of a disk or partition in use change, whoever changes them. No data
 * is kept, and nothing is installed. It is tracked until `hrl_tracker_stop`, or until the machine
 * boots, whatever processes end. `state` is the directory of the checkpoints of all disks; NULL:
 * "/var/lib/hrl/track". Free it with `hrl_tracker_free`.
 * Statuses: HRL_ERROR_ALREADY_EXISTS (it is tracked), HRL_ERROR_DENIED (CAP_BPF, CAP_PERFMON or
 * CAP_SYS_ADMIN is missing), HRL_ERROR_UNSUPPORTED (the kernel or the disk; the message says what
 * helps), HRL_ERROR_READ_ONLY, HRL_ERROR_IO. Since 0.1.
 */
HRL_API hrl_status hrl_tracker_start(const char *disk, const char *state, struct hrl_tracker **out);

/**
 * Opens a disk that is tracked, or was tracked before the machine booted. `state` is as for
 * `hrl_tracker_start`. Free it with `hrl_tracker_free`.
 * Statuses: HRL_ERROR_NOT_FOUND (it is not tracked). Since 0.1.
 */
HRL_API hrl_status hrl_tracker_open(const char *disk, const char *state, struct hrl_tracker **out);

/**
 * Makes a checkpoint: changes after it are apart from those before. Make it first, then read the
 * disk. `checkpoint`, which may be NULL, receives it. If changes could not be audited, its set is
 * the whole disk, and `everything` says why.
 * Statuses: HRL_ERROR_ALREADY_EXISTS (the name is taken), HRL_ERROR_INVALID_INPUT (a name above 64
 * bytes), HRL_ERROR_CHANGED (the machine has booted since the start), HRL_ERROR_IO. Since 0.1.
 */
HRL_API
hrl_status hrl_tracker_checkpoint(const struct hrl_tracker *tracker,
                                  const char *name,
                                  struct hrl_checkpoint *checkpoint);

/**
 * Passes the checkpoints, oldest first, to `each` on the calling thread.
 * Statuses: HRL_ERROR_CORRUPT, HRL_ERROR_IO. Since 0.1.
 */
HRL_API
hrl_status hrl_tracker_checkpoints(const struct hrl_tracker *tracker,
                                   hrl_checkpoint_fn each,
                                   void *user);

/**
 * Finds what changed after checkpoint `from`, up to checkpoint `to`; NULL: up to now. The runs are
 * whole blocks of 4 KiB, and `zero` is false in all. Ask `hrl_changes_everything` whether they are
 * exact. Free it with `hrl_changes_free`.
 * Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_INVALID_INPUT (`to` is earlier), HRL_ERROR_CHANGED
 * (everything may have changed, because the machine has booted since `from`), HRL_ERROR_CORRUPT,
 * HRL_ERROR_IO. Since 0.1.
 */
HRL_API
hrl_status hrl_tracker_changes(const struct hrl_tracker *tracker,
                               const char *from,
                               const char *to,
                               struct hrl_changes **out);

/**
 * Forgets a checkpoint. Its changes count for the next one, so those since others stay exact.
 * Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_CORRUPT, HRL_ERROR_IO. Since 0.1.
 */
HRL_API hrl_status hrl_tracker_forget(const struct hrl_tracker *tracker, const char *name);

/**
 * Reports how the disk is tracked.
 * Statuses: HRL_ERROR_NOT_FOUND (it is not tracked any more), HRL_ERROR_IO. Since 0.1.
 */
HRL_API
hrl_status hrl_tracker_status_get(const struct hrl_tracker *tracker,
                                  struct hrl_tracker_status *status);

/**
 * Stops to track the disk, and forgets its checkpoints. Nothing stays in the kernel. The handle is
 * freed by `hrl_tracker_free`.
 * Statuses: HRL_ERROR_NOT_FOUND (it is not tracked any more), HRL_ERROR_IO. Since 0.1.
 */
HRL_API hrl_status hrl_tracker_stop(const struct hrl_tracker *tracker);

/**
 * Frees the handle; NULL is fine. The disk is tracked on. Since 0.1.
 */
HRL_API void hrl_tracker_free(struct hrl_tracker *tracker);

/* ---- Groups ----
 * One cut across volumes on several machines.
 */

/**
 * The coordinator of a consistency group. All threads may use it at once.
 */
typedef struct hrl_group_coordinator hrl_group_coordinator;

/**
 * A volume's membership in a group. All threads may use it at once.
 */
typedef struct hrl_group_member hrl_group_member;

/**
 * The place of a group point in one member.
 */
typedef struct hrl_group_mark {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * Name of the volume.
     */
    char volume[HRL_NAME_CHARS];
    /**
     * Identity of the recovery point in it, in hexadecimal digits.
     */
    char point[HRL_ID_CHARS];
    /**
     * Its place in the write order of the volume.
     */
    uint64_t sequence;
    /**
     * Time of the mark by the clock of its machine, in nanoseconds since 1970 in UTC.
     */
    int64_t time_ns;
} hrl_group_mark;

/**
 * One cut across the volumes of a group.
 */
typedef struct hrl_group_point {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * Identity, in hexadecimal digits. Every member can be restored or viewed at it.
     */
    char id[HRL_ID_CHARS];
    /**
     * A `hrl_point_kind`.
     */
    uint32_t kind;
    /**
     * Time at which the coordinator began it, in nanoseconds since 1970 in UTC.
     */
    int64_t time_ns;
    /**
     * Name of the group.
     */
    char group[HRL_NAME_CHARS];
    /**
     * Label that it was marked with.
     */
    char label[HRL_LABEL_CHARS];
    /**
     * Members that it was made of. All can be restored to this cut if `mark_count` is as many.
     */
    uint32_t members;
    /**
     * First mark. Marks may be longer than `sizeof(hrl_group_mark)`: use
     * `hrl_group_point_mark`.
     */
    const struct hrl_group_mark *marks;
    /**
     * Number of marks.
     */
    size_t mark_count;
    /**
     * Longest barrier of a member, in microseconds; 0 for a point found in a vault.
     */
    uint64_t held_us;
} hrl_group_point;

/**
 * Receives one group point, which lives until it returns with its marks; returns false to stop.
 */
typedef bool (*hrl_group_point_fn)(void *user, const struct hrl_group_point *point);

/**
 * Options of a coordinator. Fill it with zeroes, then set the fields that you need; everything is
 * copied.
 */
typedef struct hrl_group_options {
    /**
     * `sizeof(hrl_group_options)`.
     */
    size_t struct_bytes;
    /**
     * Name of the group.
     */
    const char *name;
    /**
     * Directory in which it remembers its members; created if it is absent.
     */
    const char *state;
    /**
     * Directory with the certificates and enrolled clients, as `hrl enroll` makes it.
     */
    const char *pki;
    /**
     * "ADDRESS:PORT"; port 0 takes a free one. NULL: "0.0.0.0:20004".
     */
    const char *listen;
    /**
     * Limit of a barrier: writers never wait longer than this. 0: 300.
     */
    uint64_t budget_ms;
    /**
     * Interval of crash-consistent points. 0: on demand only.
     */
    uint64_t interval_ms;
    /**
     * Interval of application-consistent points. 0: on demand only.
     */
    uint64_t app_interval_ms;
    /**
     * Limit for quiescing applications. 0: 10,000.
     */
    uint64_t quiesce_limit_ms;
    /**
     * The volumes that may be members. NULL: any client that is enrolled in `pki` may join with
     * its volumes, and from then on no point is made without it.
     */
    const char *const *members;
    /**
     * Number of `members`.
     */
    size_t member_count;
} hrl_group_options;

/**
 * Reports the condition of a member.
 */
typedef struct hrl_group_member_stats {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * Whether a coordinator has it as a member now.
     */
    bool connected;
    /**
     * Rounds in which its writers waited at a barrier.
     */
    uint64_t rounds;
    /**
     * Group points that were committed.
     */
    uint64_t points;
    /**
     * Longest barrier of its writers, in microseconds.
     */
    uint64_t held_max_us;
} hrl_group_member_stats;

/**
 * Returns mark `number` of a point, counted from 0, as long as the point lives. NULL from
 * `mark_count` on, and for NULL. Since 0.1.
 */
HRL_API const struct hrl_group_mark *hrl_group_point_mark(const struct hrl_group_point *point, size_t number);

/**
 * Passes every committed group point of a vault, oldest first, each once, to `visit` on the
 * calling thread. Volumes that cannot be read hide no other: the name of each and the reason are
 * passed to `unread` before, which may be NULL.
 * Statuses: HRL_ERROR_UNAVAILABLE, HRL_ERROR_IO. Since 0.1.
 */
HRL_API
hrl_status hrl_vault_group_points(const struct hrl_vault *vault,
                                  hrl_group_point_fn visit,
                                  hrl_finding_fn unread,
                                  void *user);

/**
 * Starts a coordinator. Free it with `hrl_group_coordinator_free`.
 * Statuses: HRL_ERROR_INVALID_INPUT (options, certificates), HRL_ERROR_NOT_FOUND, HRL_ERROR_IO,
 * HRL_ERROR_UNSUPPORTED in builds without the feature `tls`. Since 0.1.
 */
HRL_API
hrl_status hrl_group_coordinator_start(const struct hrl_group_options *options,
                                       struct hrl_group_coordinator **out);

/**
 * Returns the address at which it listens, "ADDRESS:PORT". Valid as long as the coordinator lives;
 * NULL for NULL. Since 0.1.
 */
HRL_API const char *hrl_group_coordinator_address(const struct hrl_group_coordinator *coordinator);

/**
 * Makes a point of the group now, application-consistent with `app`, and passes it to `visit` on
 * the calling thread. `label` may be NULL.
 * Statuses: HRL_ERROR_UNAVAILABLE (the message identifies the member that is in the way),
 * HRL_ERROR_INVALID_INPUT (the label is too long). Since 0.1.
 */
HRL_API
hrl_status hrl_group_coordinator_point(const struct hrl_group_coordinator *coordinator,
                                       bool app,
                                       const char *label,
                                       hrl_group_point_fn visit,
                                       void *user);

/**
 * Removes a member that is not coming back. HRL_ERROR_NOT_FOUND if it is no member. Since 0.1.
 */
HRL_API
hrl_status hrl_group_coordinator_remove(const struct hrl_group_coordinator *coordinator,
                                        const char *volume);

/**
 * Stops a coordinator and frees it; NULL is fine. Since 0.1.
 */
HRL_API void hrl_group_coordinator_free(struct hrl_group_coordinator *coordinator);

/**
 * Makes a protected volume a member of `group`. Connects in the background to the first of `count`
 * coordinators that answers, with the certificate in the directory `identity`. A coordinator is
 * "HOST" or "HOST:PORT"; the default port is 20004. `application`, which may be NULL, is quiesced
 * for application-consistent points, on a thread of the library, with `user`. `hold_percent` is the
 * greatest share of the time for which the coordinator may hold writers; 0: 10. Free the member with
 * `hrl_group_member_free`, before the protection.
 * Statuses: HRL_ERROR_INVALID_INPUT, HRL_ERROR_NOT_FOUND (the identity), HRL_ERROR_UNSUPPORTED in
 * builds without the feature `tls`. Since 0.1.
 */
HRL_API
hrl_status hrl_protection_join_group(const struct hrl_protection *protection,
                                     const char *group,
                                     const char *const *coordinators,
                                     size_t count,
                                     const char *identity,
                                     uint32_t hold_percent,
                                     const struct hrl_quiesce_callbacks *application,
                                     void *user,
                                     struct hrl_group_member **out);

/**
 * Reports the condition of a member. Since 0.1.
 */
HRL_API
hrl_status hrl_group_member_stats_get(const struct hrl_group_member *member,
                                      struct hrl_group_member_stats *stats);

/**
 * Waits until a coordinator has taken the member in. HRL_ERROR_UNAVAILABLE at the limit; the
 * message says why. Since 0.1.
 */
HRL_API hrl_status hrl_group_member_wait_connected(const struct hrl_group_member *member, uint64_t limit_ms);

/**
 * Leaves the group: its points are made without this volume. Free the member afterwards in any
 * case.
 * Statuses: HRL_ERROR_UNAVAILABLE if no coordinator confirms it within the limit. Then the group
 * still waits for the volume. Since 0.1.
 */
HRL_API hrl_status hrl_group_member_leave(const struct hrl_group_member *member, uint64_t limit_ms);

/**
 * Ends the connection and frees the member; NULL is fine. The volume stays a member of the group.
 * Since 0.1.
 */
HRL_API void hrl_group_member_free(struct hrl_group_member *member);

/* ---- Plans ----
 * Recovery of many volumes, step by step.
 */

/**
 * Room for the address of a served volume.
 */
#define HRL_URI_CHARS 1024

/**
 * Kind of a run.
 */
typedef enum hrl_plan_mode {
    /**
     * Isolated test failovers, which are cleaned up.
     */
    HRL_PLAN_TEST = 0,
    /**
     * Failovers.
     */
    HRL_PLAN_REAL = 1,
} hrl_plan_mode;

/**
 * A recovery plan. All threads may use it at once.
 */
typedef struct hrl_plan hrl_plan;

/**
 * Asks the step under way to end; see `hrl_plan_stop_is_set`.
 */
typedef struct hrl_plan_stop hrl_plan_stop;

/**
 * Receives a text, which lives until it returns.
 */
typedef void (*hrl_text_fn)(void *user, const char *text);

/**
 * Request to the host of a plan. Lives until the callback returns.
 */
typedef struct hrl_plan_request {
    /**
     * `sizeof(hrl_plan_request)` of the library.
     */
    size_t struct_bytes;
    /**
     * Identity of the run.
     */
    const char *run;
    /**
     * A `hrl_plan_mode`.
     */
    uint32_t mode;
    /**
     * Whether the source is still there. Then its last bytes come first.
     */
    bool planned;
    /**
     * Name of the volume in the vault.
     */
    const char *volume;
    /**
     * Recovery state to come up at, as `hrl_replica_view` takes it.
     */
    const char *at;
    /**
     * Disk that a failover fills; NULL if the plan has none.
     */
    const char *disk;
    /**
     * State directory of the failover, in a test one of the run's; NULL if the plan has none.
     */
    const char *state;
    /**
     * Address at which to serve in this mode; NULL if the plan has none.
     */
    const char *nbd;
    /**
     * Limit in milliseconds, which the host keeps.
     */
    uint64_t limit_ms;
    /**
     * Flag to look at now and then with `hrl_plan_stop_is_set`.
     */
    const struct hrl_plan_stop *stop;
} hrl_plan_request;

/**
 * A volume that is up. All zeroes but `struct_bytes` before the callback fills it.
 */
typedef struct hrl_plan_started {
    /**
     * `sizeof(hrl_plan_started)` of the library, which the callback leaves as it is.
     */
    size_t struct_bytes;
    /**
     * Address at which it is served: `HRL_URI` of commands.
     */
    char uri[HRL_URI_CHARS];
    /**
     * Recovery point that it came up at, in hexadecimal digits; empty if the state is at no point.
     */
    char point[HRL_ID_CHARS];
    /**
     * Sequence of that state.
     */
    uint64_t sequence;
    /**
     * Time of that state, in nanoseconds since 1970 in UTC.
     */
    int64_t time_ns;
} hrl_plan_started;

/**
 * Brings the volumes of plans up. The functions return 0 or an errno and must not unwind. They are
 * called from any thread, for different volumes at once.
 * Each may come again for the same run and volume, if the runner was killed before it recorded the
 * answer. Then `start` finds the volume up and starts nothing twice. The others succeed if their
 * work is done.
 */
typedef struct hrl_plan_callbacks {
    /**
     * `sizeof(hrl_plan_callbacks)`, so that later versions can add to it.
     */
    size_t struct_bytes;
    /**
     * Brings a volume up; returns once it is served.
     */
    int32_t (*start)(void *user, const struct hrl_plan_request *request, struct hrl_plan_started *started);
    /**
     * Commits the failover of a volume, of a real run only.
     */
    int32_t (*commit)(void *user, const struct hrl_plan_request *request);
    /**
     * Takes a test failover down, even if its start failed.
     */
    int32_t (*clean_up)(void *user, const struct hrl_plan_request *request);
    /**
     * Asked every `poll_ms`: true stops the run, which can be resumed. NULL: never.
     */
    bool (*stopped)(void *user);
    /**
     * Receives a run and a step, as JSON, when the step begins and when it has ended. NULL: steps
     * are not reported.
     */
    void (*on_step)(void *user, const char *run, const char *step);
} hrl_plan_callbacks;

/**
 * Options of a run. Fill it with zeroes, then set the fields that you need; everything is copied.
 */
typedef struct hrl_plan_options {
    /**
     * `sizeof(hrl_plan_options)`.
     */
    size_t struct_bytes;
    /**
     * Identity of a new run; NULL: plan, time and a random number.
     */
    const char *run;
    /**
     * A `hrl_plan_mode`.
     */
    uint32_t mode;
    /**
     * Whether the source is still there, so that nothing is lost.
     */
    bool planned;
    /**
     * Commit a real run at its end, even if the plan does not. On resuming, commit a run that
     * waits for it.
     */
    bool commit;
    /**
     * Take a run over although its runner seems to live.
     */
    bool take_over;
    /**
     * Time at which the source failed, in nanoseconds since 1970 in UTC. 0: when the run begins.
     */
    int64_t failed_at_ns;
    /**
     * Interval for approvals, the stop and other runners. 0: 1,000.
     */
    uint64_t poll_ms;
    /**
     * On resuming: the plan of the run, or NULL. The records must name the same plan, `mode` and
     * `planned`. Needed in a vault without a key, where anybody who writes to the vault can write
     * records.
     */
    const struct hrl_plan *plan;
} hrl_plan_options;

/**
 * Reads a plan, which is TOML. Errors call it `name`. Free it with `hrl_plan_free`.
 * Statuses: HRL_ERROR_INVALID_INPUT. The message has the key, its line, what was expected and what
 * was found. Since 0.1.
 */
HRL_API hrl_status hrl_plan_parse(const char *text, const char *name, struct hrl_plan **out);

/**
 * Frees the plan; NULL is fine. Since 0.1.
 */
HRL_API void hrl_plan_free(struct hrl_plan *plan);

/**
 * Finds the state that each volume would come up at, and its loss. Passes it as JSON to
 * `receive`, with the problems that would keep the plan from running.
 * Statuses: HRL_ERROR_UNAVAILABLE. Since 0.1.
 */
HRL_API
hrl_status hrl_plan_check(const struct hrl_plan *plan,
                          const struct hrl_vault *vault,
                          hrl_text_fn receive,
                          void *user);

/**
 * Runs a plan to its end and passes its report, as JSON, to `receive`. A failed step is no error,
 * but the `outcome` of the report. `options` may be NULL: a test.
 * Statuses: those that keep the plan from running, before anything is done.
 * HRL_ERROR_ALREADY_EXISTS if there is a run of this identity. HRL_ERROR_FENCED if another runner
 * took it. Those of the store, after which it can be resumed. Since 0.1.
 */
HRL_API
hrl_status hrl_plan_run(const struct hrl_plan *plan,
                        const struct hrl_vault *vault,
                        const struct hrl_plan_callbacks *callbacks,
                        const struct hrl_plan_options *options,
                        hrl_text_fn receive,
                        void *user);

/**
 * Goes on with an interrupted run and passes its report to `receive`. If the run is over, only the
 * report. Options of a new run are ignored, unless `options.plan` is given.
 * Statuses: HRL_ERROR_NOT_FOUND. HRL_ERROR_FENCED if its runner lives on this machine or another
 * one takes it. HRL_ERROR_DENIED if the vault has no key and `options.plan` is NULL.
 * HRL_ERROR_INVALID_INPUT if the records name another plan or kind of run. Since 0.1.
 */
HRL_API
hrl_status hrl_plan_resume(const struct hrl_vault *vault,
                           const char *run,
                           const struct hrl_plan_callbacks *callbacks,
                           const struct hrl_plan_options *options,
                           hrl_text_fn receive,
                           void *user);

/**
 * Approves a manual step that waits, or rejects it. `note` may be NULL.
 * Statuses: HRL_ERROR_NOT_FOUND (the message lists the steps that wait), HRL_ERROR_ALREADY_EXISTS
 * (it was decided before). Since 0.1.
 */
HRL_API
hrl_status hrl_plan_approve(const struct hrl_vault *vault,
                            const char *run,
                            const char *step,
                            bool approved,
                            const char *by,
                            const char *note);

/**
 * Passes the report of a run, as JSON, to `receive`.
 * Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_WRONG_KEY, HRL_ERROR_CORRUPT, HRL_ERROR_UNAVAILABLE.
 * Since 0.1.
 */
HRL_API
hrl_status hrl_plan_report(const struct hrl_vault *vault,
                           const char *run,
                           hrl_text_fn receive,
                           void *user);

/**
 * Returns whether the step under way has to end; false for NULL. Since 0.1.
 */
HRL_API bool hrl_plan_stop_is_set(const struct hrl_plan_stop *stop);

/* ---- NBD ----
 * Serve devices to clients.
 */

/**
 * Flag of `hrl_nbd_server_start`: refuse changes, even if the device would take them.
 */
#define HRL_SERVE_READ_ONLY 1

/**
 * Flag of `hrl_nbd_server_start`: listen without TLS even at an address that other machines reach.
 * Whoever reaches it reads and writes the disk.
 */
#define HRL_SERVE_INSECURE 2

/**
 * A listening NBD server. All threads may use it at once.
 */
typedef struct hrl_nbd_server hrl_nbd_server;

/**
 * Receives one line for people about a client that was refused, on a thread of the library. The
 * line lives until it returns.
 */
typedef void (*hrl_refused_fn)(void *user, const char *line);

/**
 * TLS of an NBD server. Fill it with zeroes, then set the fields that you need.
 */
typedef struct hrl_nbd_tls {
    /**
     * `sizeof(hrl_nbd_tls)`.
     */
    size_t struct_bytes;
    /**
     * Directory with the certificates, as `hrl enroll` makes it.
     */
    const char *pki;
    /**
     * The volume that clients must be enrolled for. NULL: the name of the export.
     */
    const char *volume;
    /**
     * Serve clients without a certificate, too. The connection is encrypted, but open to every
     * client that reaches the port.
     */
    bool no_verify;
    /**
     * Receives refused clients. NULL: they are not reported.
     */
    hrl_refused_fn refused;
    /**
     * Passed to `refused`.
     */
    void *user;
} hrl_nbd_tls;

/**
 * Counters of a server.
 */
typedef struct hrl_nbd_stats {
    /**
     * Size of the structure in bytes. The caller sets it, and the library stores how much it filled.
     * See "Structures" at the top of this file.
     */
    size_t struct_bytes;
    /**
     * Connections open now.
     */
    uint64_t connections;
    /**
     * Connections refused at the limit or by TLS.
     */
    uint64_t connections_refused;
    /**
     * Requests answered.
     */
    uint64_t requests;
    /**
     * Requests answered with an error.
     */
    uint64_t errors;
    /**
     * Bytes of data sent.
     */
    uint64_t bytes_read;
    /**
     * Bytes of data received.
     */
    uint64_t bytes_written;
} hrl_nbd_stats;

/**
 * Serves a device over NBD at `address`, "unix:PATH" or "tcp:HOST:PORT" (port 0 takes a free one),
 * as export `name`. Writes to a protected volume are captured. `changes`, which may be NULL,
 * become the meta contexts "qemu:dirty-bitmap:changes" and "hrl:changes". The device may be freed
 * afterwards. Free the server with `hrl_nbd_server_free`.
 * The owner alone may connect to a UNIX socket. An address that other machines reach needs TLS or
 * HRL_SERVE_INSECURE.
 * Statuses: HRL_ERROR_INVALID_INPUT, HRL_ERROR_FENCED (the address is taken), HRL_ERROR_IO. Since
 * 0.1.
 */
HRL_API
hrl_status hrl_nbd_server_start(const char *address,
                                const char *name,
                                const struct hrl_device *device,
                                const struct hrl_changes *changes,
                                uint32_t flags,
                                struct hrl_nbd_server **out);

/**
 * Does the same as `hrl_nbd_server_start` with TLS, and serves nothing without it. `tls` and its
 * texts are copied. `refused` is called until `hrl_nbd_server_free` or `hrl_nbd_server_stop` has
 * returned.
 * Statuses: also HRL_ERROR_NOT_FOUND and HRL_ERROR_INVALID_INPUT for certificates that cannot be
 * used, and HRL_ERROR_UNSUPPORTED in builds without the feature `tls`. Since 0.1.
 */
HRL_API
hrl_status hrl_nbd_server_start_tls(const char *address,
                                    const char *name,
                                    const struct hrl_device *device,
                                    const struct hrl_changes *changes,
                                    uint32_t flags,
                                    const struct hrl_nbd_tls *tls,
                                    struct hrl_nbd_server **out);

/**
 * Returns the URI that clients connect to. Valid as long as the handle lives; empty for NULL.
 * Since 0.1.
 */
HRL_API const char *hrl_nbd_server_uri(const struct hrl_nbd_server *server);

/**
 * Returns what carries the bytes: "io_uring", or "threads" where the system denies io_uring, as
 * containers do by default. Never freed; empty for NULL and for a server that was stopped. Since
 * 0.1.
 */
HRL_API const char *hrl_nbd_server_engine(const struct hrl_nbd_server *server);

/**
 * Reports the counters now; all 0 once the server stopped.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API hrl_status hrl_nbd_server_stats(const struct hrl_nbd_server *server, struct hrl_nbd_stats *stats);

/**
 * Stops listening, lets requests in flight end, and closes the connections. A second stop does
 * nothing.
 * Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
 */
HRL_API hrl_status hrl_nbd_server_stop(const struct hrl_nbd_server *server);

/**
 * Stops the server, unless it was stopped, and frees the handle; NULL is fine. Since 0.1.
 */
HRL_API void hrl_nbd_server_free(struct hrl_nbd_server *server);

#ifdef __cplusplus
}
#endif

#endif  /* HRL_H */
