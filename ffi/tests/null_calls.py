"""Prints a C program that calls every function of hrl.h with NULL for each pointer and 0 for the rest.

None may crash, and one that returns a status and takes a pointer to a handle, text or output must refuse."""

import re
import sys

text = re.sub(r"/\*.*?\*/", "", open(sys.argv[1]).read(), flags=re.S)
calls = re.findall(r"HRL_API\s+([\w ]+?[\s*]+)(hrl_\w+)\(([^;]*)\);", text)
assert len(calls) > 60, len(calls)
print('#include "check.h"\nint main(void) {')
for returns, name, arguments in calls:
    types = [] if arguments.strip() == "void" else re.split(r",(?![^()]*\))", arguments)
    values = []
    for argument in types:
        struct = re.match(r"\s*(?:const )?(?:struct )?(hrl_ticket)\s+\w+$", argument)
        if struct:
            values.append(f"({struct.group(1)}){{0, 0}}")
        elif re.match(r"\s*(?:const )?(?:u?int\d+_t|size_t|bool|hrl_status)\s+\w+$", argument):
            values.append("0")
        else:
            values.append("NULL")
    call = f"{name}({', '.join(values)})"
    refuses = returns.strip() == "hrl_status" and "NULL" in values
    print(f"    FAILS(HRL_ERROR_INVALID_INPUT, {call});" if refuses else f"    (void){call};" if returns.strip() != "void" else f"    {call};")
print("    return 0;\n}")
