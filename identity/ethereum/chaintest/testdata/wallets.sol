// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

// A wallet that one key owns. Its signatures are that key's (ERC-1271).
contract Wallet {
    address public owner;

    constructor(address first) {
        owner = first;
    }

    function setOwner(address next) external {
        require(msg.sender == owner, "not the owner");
        owner = next;
    }

    function isValidSignature(bytes32 hash, bytes calldata sig) external view returns (bytes4) {
        if (sig.length != 65) return 0xffffffff;
        uint8 v = uint8(sig[64]);
        address signer = ecrecover(hash, v, bytes32(sig[0:32]), bytes32(sig[32:64]));
        return signer != address(0) && signer == owner ? bytes4(0x1626ba7e) : bytes4(0xffffffff);
    }
}

// Makes wallets at addresses that are known before (ERC-6492), and never twice.
contract Factory {
    function deploy(address owner, bytes32 salt) external returns (address) {
        return address(new Wallet{salt: salt}(owner));
    }

    function addressOf(address owner, bytes32 salt) external view returns (address) {
        bytes32 code = keccak256(abi.encodePacked(type(Wallet).creationCode, abi.encode(owner)));
        return address(uint160(uint256(keccak256(abi.encodePacked(bytes1(0xff), address(this), salt, code)))));
    }

    function fail() external pure {
        revert("no");
    }

    function burn() external pure {
        assembly {
            invalid()
        }
    }
}

// A wallet whose owner becomes known by a call that anybody may make once: what
// ERC-6492 calls preparing.
contract Registered {
    address public owner;

    function register(address first) external {
        require(owner == address(0), "registered");
        owner = first;
    }

    function isValidSignature(bytes32 hash, bytes calldata sig) external view returns (bytes4) {
        address signer = ecrecover(hash, uint8(sig[64]), bytes32(sig[0:32]), bytes32(sig[32:64]));
        require(signer != address(0) && signer == owner, "not the owner");
        return 0x1626ba7e;
    }
}

// A wallet that answers, but never as ERC-1271 has it. Which way is the signature's
// first byte.
contract Misbehaved {
    uint256 public written;

    function isValidSignature(bytes32, bytes calldata sig) external returns (bytes4) {
        uint8 way = uint8(sig[0]);
        assembly {
            mstore(0, 0x1626ba7e00000000000000000000000000000000000000000000000000000000)
            switch way
            case 0 { revert(0, 32) } // the magic value, but reverted
            case 1 { return(0, 4) } // too short for a word
            case 2 { return(0, 0) }
            case 3 { mstore8(31, 1) return(0, 32) } // not zero behind it
            case 4 { mstore(0, 0x1626ba7e) return(0, 32) } // at the wrong end
            case 5 { mstore(0, 1) return(0, 32) } // a boolean
            case 6 { invalid() } // burns all gas
            case 7 { for {} 1 {} {} } // until there is none
            case 8 { return(0x100, 10485760) } // 10 MB of zeros
            case 9 { sstore(0, 1) return(0, 32) } // changes the chain's state
            case 10 { return(0, 1048576) } // the magic value, and 1 MB behind it: not against the rules
            case 11 { if origin() { mstore(0, 0) } return(0, 32) } // the magic value for the zero address, as simulations have it
        }
        return 0;
    }
}
