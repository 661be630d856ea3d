"""The emulated chip: its physics, its engines, its folder, its provisioning."""

from __future__ import annotations

from fuseline.errors.base import FuselineError


class SiliconError(FuselineError):
    """Something asked of the chip cannot be done."""

    code = "E_CHIP"
    hint = "Look at the chip with `fuseline chip show DIR`."


class FuseArgument(SiliconError):
    """A fuse was named that does not exist, or bits that its field does not have."""

    code = "E_CHIP_FUSE_ARGUMENT"
    hint = "Take words and bits from `fuseline.device.silicon.fuse_map`, or use a plan from `fuse_plans`."


class FuseLocked(SiliconError):
    """The fuse's field is locked until the next reset."""

    code = "E_CHIP_FUSE_LOCKED"
    hint = "Reset the chip and blow the fuse before the machine code locks it."


class FuseLifeCycle(SiliconError):
    """The life cycle no longer lets this fuse be blown."""

    code = "E_CHIP_FUSE_LIFE_CYCLE"
    hint = "Nothing can be done on this chip; blow this fuse in an earlier life cycle on the next one."


class FuseOrder(SiliconError):
    """A life cycle state may only follow the one before it."""

    code = "E_CHIP_FUSE_ORDER"
    hint = "Blow every state in order, both words of each, and nothing but their code words."


class FuseDebug(SiliconError):
    """The debug port must be open for this fuse."""

    code = "E_CHIP_FUSE_DEBUG"
    hint = "Unlock debug with its authority's key first: strap DEBUG, or `fuseline chip fuse --debug-key`."


class FuseLastKey(SiliconError):
    """Revoking this key slot would leave the chip without a loader key."""

    code = "E_CHIP_FUSE_LAST_KEY"
    hint = "Bring another key slot into use before revoking this one."


class FuseStuck(SiliconError):
    """A fuse did not take: the bit still reads 0."""

    code = "E_CHIP_FUSE_STUCK"
    hint = "Treat the part as defective and scrap it."


class FlashArgument(SiliconError):
    """Flash was addressed outside its size or off its blocks or words."""

    code = "E_CHIP_FLASH_ARGUMENT"
    hint = "Erase whole 4 KiB blocks and program whole words inside the 1 MiB of flash."


class FlashLocked(SiliconError):
    """This part of flash is locked until the next reset."""

    code = "E_CHIP_FLASH_LOCKED"
    hint = "Reset the chip and write before the machine code locks it."


class FlashNotErased(SiliconError):
    """A flash word was not erased before it was programmed."""

    code = "E_CHIP_FLASH_NOT_ERASED"
    hint = "Erase the block first; a word is programmed once per erase."


class KeySlotLocked(SiliconError):
    """The key slot is locked until the next reset."""

    code = "E_CHIP_KEY_LOCKED"
    hint = "Use this key in the boot stage that owns it, before it is locked."


class KeySlotEmpty(SiliconError):
    """The key slot is empty."""

    code = "E_CHIP_KEY_EMPTY"
    hint = "Derive the key again after a reset, from the stage that owns its source."


class KeySlotKind(SiliconError):
    """The key slot does not hold the kind of key that the command takes."""

    code = "E_CHIP_KEY_KIND"
    hint = "Sign with a P-256 slot; derive, authenticate and encrypt with a secret slot."


class PufLocked(SiliconError):
    """The PUF is cleared and locked until the next cold or warm reset."""

    code = "E_CHIP_PUF_LOCKED"
    hint = "Reset the chip; the ROM is the only code that sees the PUF."


class PufEnrolled(SiliconError):
    """The PUF can only be enrolled once, in life cycle TEST."""

    code = "E_CHIP_PUF_ENROLLED"
    hint = "Enrol a new part; a second enrolment would give away the secret of the first."


class PortArgument(SiliconError):
    """An argument of a command is out of its range."""

    code = "E_CHIP_PORT_ARGUMENT"
    hint = "Compare the call with `fuseline.device.silicon.commands`."


class PortAddress(SiliconError):
    """A block was pointed at memory that it cannot reach."""

    code = "E_CHIP_PORT_ADDRESS"
    hint = "Use main RAM or the mailbox's data buffer; flash and the fuse shadow only to read."


class PortHalted(SiliconError):
    """The chip has failed and does nothing more until the next reset."""

    code = "E_CHIP_PORT_HALTED"
    hint = "Read the error word, then reset the chip."


class PortLocked(SiliconError):
    """The function is locked until the next reset."""

    code = "E_CHIP_PORT_LOCKED"
    hint = "Reset the chip and ask before the machine code locks the function."


class TrngFailed(SiliconError):
    """The noise source failed a health test; it gives no more random numbers until the next reset."""

    code = "E_CHIP_TRNG"
    hint = "Reset the chip; if it happens again the part is defective."


class SignaturePoint(SiliconError):
    """The signature or the public key leads to no point on the curve."""

    code = "E_CHIP_SIGNATURE_POINT"
    hint = "Treat the signature as wrong."


class PufFailure(SiliconError):
    """The PUF's readout is too far from what was enrolled."""

    code = "E_CHIP_PUF_FAILURE"
    hint = "Boot it within its temperature range; if that fails too, its cells are worn or not its own."


class PufHelperMalformed(PufFailure):
    """The PUF's helper data do not follow their format."""

    code = "E_CHIP_PUF_HELPER"
    hint = "Use the second copy in flash; without either, the secret is gone and the chip is scrap."


class PufStudyInvalid(SiliconError):
    """The PUF study asks for what cannot be measured."""

    code = "E_CHIP_PUF_STUDY"
    hint = "Take at least two chips, one readout and one set of conditions."


class PufBiased(PufFailure):
    """The PUF's cells lean so far to one side that too few balanced pairs are left to enrol."""

    code = "E_CHIP_PUF_BIAS"
    hint = "The part is defective: sort it out at wafer test."


class QemuMissing(SiliconError):
    """The second engine was asked for, and there is none."""

    code = "E_CHIP_QEMU_MISSING"
    hint = "Install QEMU for Arm (Debian: `apt install qemu-system-arm`), or use the engine `unicorn`."


class QemuFailed(SiliconError):
    """QEMU did not start the board, or died under it."""

    code = "E_CHIP_QEMU_FAILED"
    hint = "Read QEMU's complaint in the evidence. Versions from 7.2 on are known to work."


class ChipFolderMissing(SiliconError):
    """There is no chip in this folder."""

    code = "E_CHIP_FOLDER_MISSING"
    hint = "Make a chip with `fuseline chip new DIR`, or name the folder of one."


class ChipFolderExists(SiliconError):
    """A new chip would replace one that is there."""

    code = "E_CHIP_FOLDER_EXISTS"
    hint = "Choose a folder that does not exist yet; fuses cannot be made new."


class ChipFolderBroken(SiliconError):
    """A file of the chip's folder is not what was written there."""

    code = "E_CHIP_FOLDER_BROKEN"
    hint = "Nothing was changed. Restore the named file from a copy of the same chip, taken at the same time."


class ChipFolderVersion(SiliconError):
    """The folder was written in another format than this program knows."""

    code = "E_CHIP_FOLDER_VERSION"
    hint = "Use the release of Fuseline that wrote it, or a newer one."


class ChipFolderBusy(SiliconError):
    """Another process works on this chip."""

    code = "E_CHIP_FOLDER_BUSY"
    hint = "Wait until it is done: two writers would undo each other's fuses."


class DiceMalformed(SiliconError):
    """Not a certificate of a DICE chain, or not a DiceTcbInfo."""

    code = "E_DICE_MALFORMED"
    hint = "Take the chain from the chip again; a certificate that was cut or edited looks like this."


class DiceChain(SiliconError):
    """The chip's certificates do not lead to this factory CA by the rules of the profile."""

    code = "E_DICE_CHAIN"
    hint = "Compare the factory CA with the manifest's; if it is the same one, do not trust the chip."


class IdentityRequestRefused(SiliconError):
    """The chip's answer to the factory's challenge proves nothing."""

    code = "E_CHIP_IDENTITY_REQUEST"
    hint = "Somebody answered for the chip, or its PUF no longer gives its secret; issue no certificate."


class ChipManifestMalformed(SiliconError):
    """The factory manifest does not have the keys of its format, or values that fit no chip."""

    code = "E_CHIP_MANIFEST"
    hint = "Compare it with docs/chip.md, or make one with `fuseline chip factory DIR`."


class ChipManifestFile(SiliconError):
    """The manifest, or a file that it names, cannot be read or is not what it should be."""

    code = "E_CHIP_MANIFEST_FILE"
    hint = "Names are relative to the manifest's folder; mend the file that the evidence names."


class ChipManifestTestKey(SiliconError):
    """A test key would go into a chip for PROD."""

    code = "E_CHIP_MANIFEST_TEST_KEY"
    hint = "Name production keys only: a PROD chip takes no test key, and its slot would be lost."


class ChipManifestDuplicate(SiliconError):
    """Two entries of the manifest are the same key, or use the same slot."""

    code = "E_CHIP_MANIFEST_DUPLICATE"
    hint = "Give each slot a key of its own: revoking one must leave the other."


class ChipManifestNoKey(SiliconError):
    """The manifest has no key that a PROD chip would take."""

    code = "E_CHIP_MANIFEST_NO_KEY"
    hint = "Name at least one key of type prod; without one the chip would never boot."


class ProvisioningConflict(SiliconError):
    """The chip's fuses already say something else than the manifest."""

    code = "E_CHIP_PROVISION_CONFLICT"
    hint = "Go on with the manifest that this chip was begun with; a blown fuse stays blown."


class ProvisioningLifeCycle(SiliconError):
    """The chip is in a life cycle in which it cannot be provisioned."""

    code = "E_CHIP_PROVISION_LIFE_CYCLE"
    hint = "Provision chips in TEST, or resume one that this command left in DEV or PROD."


class ProvisioningFailed(SiliconError):
    """A step of provisioning did not have the result that it must have."""

    code = "E_CHIP_PROVISION"
    hint = "Run the command again to resume; if it fails twice at one step, set the part aside."


class FuseRehearsalRefused(SiliconError):
    """In the rehearsal the chip no longer booted afterwards; nothing was blown."""

    code = "E_CHIP_WOULD_NOT_BOOT"
    hint = "Change the plan; only `--even-if-it-no-longer-boots` does this to the chip."


class FuseNotConfirmed(SiliconError):
    """Fuses are blown for ever, and nobody confirmed it."""

    code = "E_CHIP_NOT_CONFIRMED"
    hint = "Look at the rehearsal, then add `--yes`."


class FuseRequestEmpty(SiliconError):
    """Nothing was asked of the fuses, or all of it is so already."""

    code = "E_CHIP_FUSE_NOTHING"
    hint = "Name what to blow: see `fuseline chip fuse --help`."


class ChipFileUnreadable(SiliconError):
    """A file named to a chip command cannot be read or written, or is of another kind."""

    code = "E_CHIP_FILE"
    hint = "Check the path; loader images come from `imgtool sign`, keys are PEM."


class LoaderTooLarge(SiliconError):
    """The file does not fit a loader slot."""

    code = "E_CHIP_LOADER_SIZE"
    hint = "A slot takes 64 KiB with header and TLVs; sign without `--pad` and without a trailer."


class DebugNoChallenge(SiliconError):
    """The chip has no open challenge that a response could answer."""

    code = "E_CHIP_DEBUG_NO_CHALLENGE"
    hint = "Ask for one with `fuseline chip debug DIR`; it is good for one response, until a cold boot."


class DebugRefused(SiliconError):
    """The chip gave no challenge, or did not take the response."""

    code = "E_CHIP_DEBUG_REFUSED"
    hint = "Answer a fresh challenge of this very chip with the debug authority's key that is in its fuses."


class RomErrorUnknown(SiliconError):
    """No check of the boot ROM has this error word."""

    code = "E_CHIP_ERROR_UNKNOWN"
    hint = "List all words with `fuseline chip errors`."


class ChipFuseRewind(SiliconError):
    """Saving would take blown fuses back, or put another chip in this one's place."""

    code = "E_CHIP_FUSE_REWIND"
    hint = "Save the chip that was loaded from this folder, not an earlier moment of it and no other chip."


class ChipSeed(SiliconError):
    """The seed of a chip is out of range."""

    code = "E_CHIP_SEED"
    hint = "Give a natural number of up to 256 bits, or none for a random chip."


class EngineUnsupported(SiliconError):
    """The installed Unicorn is not built like the one that the processor model was written for."""

    code = "E_CHIP_ENGINE_UNSUPPORTED"
    hint = "Install the pinned version: `pip install 'unicorn==2.1.4'`, or use the engine `qemu`."


class ProgramUnreadable(SiliconError):
    """The program's file cannot be read."""

    code = "E_PROGRAM_FILE"
    hint = "Check the path and its permissions."


class ProgramTooLarge(SiliconError):
    """The program's file is larger than all of the board's memory."""

    code = "E_PROGRAM_TOO_LARGE"
    hint = "Is it a disk image? The board takes ELF files and raw images of up to 4 MiB."


class ProgramMalformed(SiliconError):
    """The file starts like an ELF file and is none."""

    code = "E_PROGRAM_MALFORMED"
    hint = "Link it again; a file that was cut short looks like this."


class ProgramMachine(SiliconError):
    """An ELF file for another processor."""

    code = "E_PROGRAM_MACHINE"
    hint = "Build for 32-bit little-endian Arm, e.g. `-mcpu=cortex-m4 -mthumb`, and link an executable."


class ProgramSegment(SiliconError):
    """A segment does not fit where it belongs: outside memory, over another one, or not in the file."""

    code = "E_PROGRAM_SEGMENT"
    hint = "Look at the physical addresses of the load segments (`readelf -l`) and at the linker script."


class ProgramVectors(SiliconError):
    """The vector table at address 0 starts nothing: stack pointer or reset vector are wrong."""

    code = "E_PROGRAM_VECTORS"
    hint = "Link the vector table to address 0; its second word must be an odd address inside the program."


class RomDamaged(SiliconError):
    """A binary of the package does not have its frozen digest."""

    code = "E_CHIP_ROM_DIGEST"
    hint = "Install the package again; if you changed the ROM's sources, that is a new revision to be frozen."


class HandoverMalformed(SiliconError):
    """What stands where the boot record should be is none."""

    code = "E_CHIP_HANDOVER"
    hint = "Only a boot that reached the loader leaves a boot record, and the loader may overwrite it."


class UsageMalformed(SiliconError):
    """Not the value of a usage constraint TLV."""

    code = "E_CHIP_USAGE"
    hint = "Build it with `fuseline.formats.usage`: 16 words, every unselected field filled with 0xA5A5A5A5."


class ChipFleetInvalid(SiliconError):
    """A fleet of chips was asked for that cannot be simulated."""

    code = "E_CHIP_FLEET"
    hint = "Ask for at least one chip and one worker, for -55 to 150 °C, and for no negative age."


class ChipFleetWorkerLost(SiliconError):
    """A process that simulated chips ended before its work was done."""

    code = "E_CHIP_FLEET_WORKER"
    hint = "Look whether memory ran out; take fewer `--workers`. The same `--seed` makes the same chips."


class ChipAttackUnknown(SiliconError):
    """There is no attack of this name in the catalogue."""

    code = "E_CHIP_ATTACK"
    hint = "List the attacks with `fuseline lab chip-attacks --list`."
