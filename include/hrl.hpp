/**
 * hrl for C++17: handles that free themselves, exceptions with all details of an error, callbacks
 * as lambdas.
 *
 * Header only, over hrl.h, which documents every function, its statuses and its threads. Handles
 * can be moved, not copied. A moved-from or default-made handle is empty; using it gives
 * hrl::Error. Callbacks may throw: the exception ends the operation and comes out of the call that
 * runs them. Of several exceptions the first comes out. If a thread of the library runs the
 * callback beside all calls, an exception counts as a failure.
 *
 * Structures of hrl.h that begin with `struct_bytes` are made by hrl::sized.
 */
#ifndef HRL_HPP
#define HRL_HPP

#include "hrl/attach.hpp"
#include "hrl/device.hpp"
#include "hrl/failover.hpp"
#include "hrl/group.hpp"
#include "hrl/handle.hpp"
#include "hrl/journal.hpp"
#include "hrl/maintenance.hpp"
#include "hrl/mirror.hpp"
#include "hrl/nbd.hpp"
#include "hrl/plan.hpp"
#include "hrl/protection.hpp"
#include "hrl/replica.hpp"
#include "hrl/tap.hpp"
#include "hrl/tracker.hpp"
#include "hrl/vault.hpp"

#endif
