/* A table of Vulkan's functions. The loader is opened with the first device, so hypura does not link to it. */
#ifndef HYPURA_VK_H
#define HYPURA_VK_H

#define VK_NO_PROTOTYPES
#include <vulkan/vulkan_core.h>

#include "core/core.h"

/* For headers older than 1.3.255. */
#ifndef VK_KHR_cooperative_matrix
#define VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME "VK_KHR_cooperative_matrix"
#define VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR ((VkStructureType)1000506000)
#define VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR ((VkStructureType)1000506001)
typedef struct VkPhysicalDeviceCooperativeMatrixFeaturesKHR {
    VkStructureType sType;
    void *pNext;
    VkBool32 cooperativeMatrix;
    VkBool32 cooperativeMatrixRobustBufferAccess;
} VkPhysicalDeviceCooperativeMatrixFeaturesKHR;
typedef struct VkCooperativeMatrixPropertiesKHR {
    VkStructureType sType;
    void *pNext;
    uint32_t MSize, NSize, KSize;
    VkComponentTypeNV AType, BType, CType, ResultType;
    VkBool32 saturatingAccumulation;
    VkScopeNV scope;
} VkCooperativeMatrixPropertiesKHR;
typedef VkResult(VKAPI_PTR *PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR)(VkPhysicalDevice, uint32_t *,
                                                                                   VkCooperativeMatrixPropertiesKHR *);
#endif

#define VK_GLOBAL_FUNCTIONS(F)                                                                                         \
    F(vkCreateInstance)                                                                                                \
    F(vkEnumerateInstanceVersion) F(vkEnumerateInstanceExtensionProperties) F(vkEnumerateInstanceLayerProperties)

#define VK_INSTANCE_FUNCTIONS(F)                                                                                       \
    F(vkDestroyInstance)                                                                                               \
    F(vkEnumeratePhysicalDevices)                                                                                      \
    F(vkGetPhysicalDeviceProperties)                                                                                   \
    F(vkGetPhysicalDeviceProperties2)                                                                                  \
    F(vkGetPhysicalDeviceFeatures2)                                                                                    \
    F(vkGetPhysicalDeviceMemoryProperties2)                                                                            \
    F(vkGetPhysicalDeviceQueueFamilyProperties)                                                                        \
    F(vkEnumerateDeviceExtensionProperties)                                                                            \
    F(vkCreateDevice)                                                                                                  \
    F(vkGetDeviceProcAddr)

#define VK_DEVICE_FUNCTIONS(F)                                                                                         \
    F(vkDestroyDevice)                                                                                                 \
    F(vkGetDeviceQueue)                                                                                                \
    F(vkDeviceWaitIdle)                                                                                                \
    F(vkAllocateMemory)                                                                                                \
    F(vkFreeMemory)                                                                                                    \
    F(vkMapMemory)                                                                                                     \
    F(vkCreateBuffer)                                                                                                  \
    F(vkDestroyBuffer)                                                                                                 \
    F(vkGetBufferMemoryRequirements)                                                                                   \
    F(vkBindBufferMemory)                                                                                              \
    F(vkGetBufferDeviceAddress)                                                                                        \
    F(vkCreateShaderModule)                                                                                            \
    F(vkDestroyShaderModule)                                                                                           \
    F(vkCreatePipelineLayout)                                                                                          \
    F(vkDestroyPipelineLayout)                                                                                         \
    F(vkCreatePipelineCache)                                                                                           \
    F(vkDestroyPipelineCache)                                                                                          \
    F(vkGetPipelineCacheData)                                                                                          \
    F(vkCreateComputePipelines)                                                                                        \
    F(vkDestroyPipeline)                                                                                               \
    F(vkCreateCommandPool)                                                                                             \
    F(vkDestroyCommandPool)                                                                                            \
    F(vkResetCommandPool)                                                                                              \
    F(vkAllocateCommandBuffers)                                                                                        \
    F(vkBeginCommandBuffer)                                                                                            \
    F(vkEndCommandBuffer)                                                                                              \
    F(vkQueueSubmit)                                                                                                   \
    F(vkCreateSemaphore)                                                                                               \
    F(vkDestroySemaphore)                                                                                              \
    F(vkWaitSemaphores)                                                                                                \
    F(vkSignalSemaphore)                                                                                               \
    F(vkGetSemaphoreCounterValue)                                                                                      \
    F(vkCreateEvent)                                                                                                   \
    F(vkDestroyEvent)                                                                                                  \
    F(vkSetEvent)                                                                                                      \
    F(vkResetEvent)                                                                                                    \
    F(vkCmdWaitEvents)                                                                                                 \
    F(vkCreateQueryPool)                                                                                               \
    F(vkDestroyQueryPool)                                                                                              \
    F(vkGetQueryPoolResults)                                                                                           \
    F(vkCmdResetQueryPool)                                                                                             \
    F(vkCmdWriteTimestamp)                                                                                             \
    F(vkCmdBindPipeline)                                                                                               \
    F(vkCmdPushConstants)                                                                                              \
    F(vkCmdDispatch)                                                                                                   \
    F(vkCmdPipelineBarrier)                                                                                            \
    F(vkCmdCopyBuffer)                                                                                                 \
    F(vkCmdFillBuffer)

/* One instance and, once opened, one device. */
struct vk {
    PFN_vkGetInstanceProcAddr get_instance_function;
#define MEMBER(name) PFN_##name name;
    VK_GLOBAL_FUNCTIONS(MEMBER)
    VK_INSTANCE_FUNCTIONS(MEMBER)
    VK_DEVICE_FUNCTIONS(MEMBER)
    PFN_vkGetMemoryHostPointerPropertiesEXT vkGetMemoryHostPointerPropertiesEXT; /* NULL without the extension */
    PFN_vkCreateCuModuleNVX vkCreateCuModuleNVX;                                 /* the same */
    PFN_vkDestroyCuModuleNVX vkDestroyCuModuleNVX;
    PFN_vkCreateCuFunctionNVX vkCreateCuFunctionNVX;
    PFN_vkDestroyCuFunctionNVX vkDestroyCuFunctionNVX;
    PFN_vkCmdCuLaunchKernelNVX vkCmdCuLaunchKernelNVX;
    PFN_vkCreateDebugUtilsMessengerEXT vkCreateDebugUtilsMessengerEXT; /* the same */
    PFN_vkDestroyDebugUtilsMessengerEXT vkDestroyDebugUtilsMessengerEXT;
#undef MEMBER
    VkInstance instance;
    VkDebugUtilsMessengerEXT messenger;
};

/* Opens the loader and creates an instance, with the validation layers if validate is true. *messages counts their
 * messages, and must live as long. HYPURA_ERROR_UNSUPPORTED: no loader on this machine. */
hypura_status vk_open(struct vk *vk, bool validate, _Atomic uint64_t *messages, hypura_error *error);
hypura_status vk_load_device(struct vk *vk, VkDevice device, hypura_error *error);
void vk_close(struct vk *vk);

/* From now on, drivers stay loaded even if no instance is open. */
void vk_keep_drivers(void);

/* Describes a result in words. */
const char *vk_result_text(VkResult result);

/* The hypura_status for a result other than success. */
hypura_status vk_error(hypura_error *error, VkResult result, const char *doing);

bool vk_has_extension(const VkExtensionProperties *list, uint32_t count, const char *name);

#endif
